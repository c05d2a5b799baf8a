"""Labels that are changed reach the run's tags: with a real MLflow server, unreachable too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import MlflowServer
from tests.integration.test_api import Platform, platform  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.errors import TrackingUnavailable
from vicreg_platform.tracking import Tracking, mlflow_client


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server of this module's own: a test ends it, and starts it again."""
    home: Path = tmp_path_factory.mktemp("mlflow")
    server = MlflowServer(home)
    server.start()
    yield server
    server.end()


def relabel(platform: Platform, job: str, **labels: str | None) -> None:  # noqa: F811
    answer = platform.http.patch(f"/v1/jobs/{job}", json={"labels": labels})
    assert answer.status_code == 200, answer.text


def tags(platform: Platform, server: MlflowServer, job: str) -> dict[str, str]:  # noqa: F811
    """The tags of a job's run."""
    run = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    found: dict[str, str] = mlflow_client(server.url).get_run(run).data.tags
    return found


def labels(platform: Platform, server: MlflowServer, job: str) -> dict[str, str]:  # noqa: F811
    """Those of the tags that are labels."""
    found = tags(platform, server, job)
    return {name: value for name, value in found.items() if name.startswith("label.")}


def test_labels_of_a_run_follow_those_of_its_job(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    job = platform.submit(labels={"team": "vision", "old": "yes"})
    other = platform.submit(labels={"team": "vision"})
    for each in (job, other):
        platform.starts(each)
    before = tags(platform, mlflow_server, job)
    relabel(platform, job, team="speech", new="ünï 2", old=None)
    platform.dispatcher.round()
    assert labels(platform, mlflow_server, job) == {"label.team": "speech", "label.new": "ünï 2"}
    assert labels(platform, mlflow_server, other) == {"label.team": "vision"}
    kept = {name: value for name, value in before.items() if not name.startswith("label.")}
    assert kept.items() <= tags(platform, mlflow_server, job).items()
    # What the job no longer has, the run has not; and a job that has ended can be labelled too.
    platform.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    assert platform.http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    relabel(platform, job, team=None, new=None)
    platform.dispatcher.round()
    assert labels(platform, mlflow_server, job) == {}


def test_labels_that_are_changed_before_there_is_a_run_reach_it(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    job = platform.submit(labels={"team": "vision"})
    relabel(platform, job, team="speech")
    platform.starts(job)  # its driver creates the run with the labels of the spec
    assert labels(platform, mlflow_server, job) == {"label.team": "speech"}


def test_without_mlflow_labels_are_changed_at_once_and_reach_the_run_when_it_is_back(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    job = platform.submit(labels={"team": "vision"})
    platform.starts(job)
    mlflow_server.end()
    try:
        relabel(platform, job, team="speech")
        assert platform.http.get("/v1/jobs", params={"label": "team=speech"}).json()["items"]
        with pytest.raises(TrackingUnavailable):
            platform.dispatcher.round()
        relabel(platform, job, team="audio")
        with suppress(TrackingUnavailable):
            platform.dispatcher.round()
    finally:
        mlflow_server.start()
    platform.dispatcher.round()
    assert labels(platform, mlflow_server, job) == {"label.team": "audio"}


def test_a_tag_that_someone_else_removes_meanwhile_costs_no_label(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = platform.submit(labels={"old": "yes"})
    platform.starts(job)
    client = mlflow_client(mlflow_server.url)
    read = client.get_run(platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"])
    client.delete_tag(read.info.run_id, "label.old")
    with monkeypatch.context() as patched:
        patched.setattr(type(client), "get_run", lambda *_: read)
        Tracking(mlflow_server.url).set_labels(read.info.run_id, {"team": "speech"})
    assert labels(platform, mlflow_server, job) == {"label.team": "speech"}


def test_a_run_that_is_gone_stops_no_other(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    jobs = [platform.submit() for _ in range(2)]
    for job in jobs:
        platform.starts(job)
    run = platform.http.get(f"/v1/jobs/{jobs[0]}").json()["mlflow"]["run_id"]
    mlflow_client(mlflow_server.url).delete_run(run)
    for job in jobs:
        relabel(platform, job, team="speech")
    platform.dispatcher.round()
    assert labels(platform, mlflow_server, jobs[1]) == {"label.team": "speech"}
    assert platform.http.get(f"/v1/jobs/{jobs[0]}").json()["labels"] == {"team": "speech"}
