"""Commands of ``vicreg`` against a real API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from vicreg_platform.cli import commands
from vicreg_platform.client import Client
from vicreg_platform.cluster import SubmissionState

Vicreg = Callable[..., str]


@pytest.fixture
def vicreg(
    platform: Platform,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Vicreg:
    """Runs a command, and returns what it prints."""
    monkeypatch.setattr(commands, "console", Console(width=200))
    monkeypatch.setattr(commands, "errors", Console(width=200, stderr=True))

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(
            "sys.argv", ["vicreg", *arguments, "--api", str(platform.http.base_url)]
        )
        with pytest.raises(SystemExit) as ended:
            commands.main()
        printed = capsys.readouterr()
        assert int(ended.value.code or 0) == code, printed.err
        return printed.err if code else printed.out

    return run


def spec_of(platform: Platform, job_id: str) -> dict[str, Any]:  # noqa: F811
    spec: dict[str, Any] = platform.http.get(f"/v1/jobs/{job_id.strip()}").json()["spec"]
    return spec


def test_a_clone_changes_the_fields_that_are_set(platform: Platform, vicreg: Vicreg) -> None:  # noqa: F811
    job = platform.submit(name="first", labels={"team": "vision"})
    clone = vicreg("clone", job, "--set", "training.epochs=5", "--set", "name=second")
    spec = spec_of(platform, clone)
    assert (spec["name"], spec["training"]["epochs"]) == ("second", 5)
    assert spec["labels"] == {"team": "vision"}
    assert "must be FIELD=VALUE" in vicreg("clone", job, "--set", "epochs", code=1)


def test_an_encoder_is_evaluated_on_the_data_of_its_training(
    platform: Platform,  # noqa: F811
    vicreg: Vicreg,
) -> None:
    job = platform.submit(name="first", data=DIGITS["data"] | {"image_size": 40})
    knn = spec_of(platform, vicreg("evaluate", job))
    assert (knn["kind"], knn["encoder"], knn["protocol"]["name"]) == (
        "evaluate",
        {"job": job, "epoch": None},
        "knn",
    )
    assert (knn["name"], knn["data"]["test"]["split"]) == ("first-knn", "test")
    assert knn["data"]["test"]["image_size"] == 40
    linear = vicreg("evaluate", job, "--protocol", "linear", "--set", "protocol.epochs=7")
    assert spec_of(platform, linear)["protocol"]["epochs"] == 7
    suite = vicreg("evaluate", job, "--suite", "paper").split()
    assert [spec_of(platform, each)["curve"] for each in suite] == [
        "linear", "finetune-1", "finetune-10", "knn-20", "knn-200",
    ]  # fmt: skip
    assert "--suite: " in vicreg("evaluate", job, "--suite", "none", code=1)
    refused = vicreg("evaluate", job, "--protocol", "none", code=1)
    assert "--protocol: 'none' is not one of 'knn', 'linear', " in refused
    assert "is not a pretraining" in vicreg("evaluate", linear.strip(), code=1)


def test_jobs_are_counted_by_state_beyond_what_a_list_shows(
    platform: Platform,  # noqa: F811
    vicreg: Vicreg,
) -> None:
    def counted(*filters: str) -> list[list[str]]:
        return [line.split() for line in vicreg("jobs", "--counts", *filters).splitlines()[1:]]

    assert counted() == [["all", "0"]]
    for number in range(25):
        platform.submit(experiment="one" if number < 3 else "two")
    platform.http.post(f"/v1/jobs/{platform.submit(experiment='two')}/cancel")
    assert counted() == [["queued", "25"], ["cancelled", "1"], ["all", "26"]]
    assert counted("--experiment", "one") == [["queued", "3"], ["all", "3"]]
    assert counted("--state", "cancelled", "--limit", "1") == [["cancelled", "1"], ["all", "1"]]


def test_the_course_of_a_job_is_shown(platform: Platform, vicreg: Vicreg) -> None:  # noqa: F811
    job = platform.submit()
    platform.dispatcher.round()
    platform.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    platform.dispatcher.round()
    states = [line.split()[2] for line in vicreg("events", job).splitlines()[1:]]
    assert states == ["queued", "starting", "running"]
    assert vicreg("metrics", job).split() == ["METRIC", "POINTS", "STEP", "LAST", "MIN", "MAX"]
    assert json.loads(vicreg("metrics", job, "--json")) == {}


def test_the_cluster_is_shown(vicreg: Vicreg) -> None:
    rows = [line.split() for line in vicreg("cluster").splitlines()]
    assert rows[1:] == [
        ["node", "0", "4", "0"],
        ["total", "4", "0"],
        ["in", "use", "0", "0"],
        ["waited", "for", "0", "0"],
    ]


@pytest.mark.parametrize("name", ["../keys", "..", "a/b", "", "a?b", "x" * 65])
def test_a_name_that_is_no_id_names_no_other_route(vicreg: Vicreg, name: str) -> None:
    assert "an id consists of letters" in vicreg("show", name, code=1)


def test_a_whole_key_is_not_repeated_in_an_error(vicreg: Vicreg) -> None:
    secret = "vk_0123abcd_" + "s" * 43
    assert "s" * 43 not in vicreg("keys", "revoke", secret, code=1)


def test_a_schedule_is_changed_by_the_client(platform: Platform) -> None:  # noqa: F811
    with Client(str(platform.http.base_url)) as client:
        spec = {"name": "nightly", "cron": "0 2 * * *", "job": DIGITS}
        schedule = client.create_schedule(spec)
        changed = client.update_schedule(schedule.id, {"cron": "0 3 * * *"})
        assert changed.spec["cron"] == "0 3 * * *"
        assert client.schedule(schedule.id) == changed
