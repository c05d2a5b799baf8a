"""Encoders are registered in a real MLflow, through the API and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MlflowServer
from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from tests.integration.test_keys import Holder, admin, holder  # noqa: F401
from vicreg_platform.cli.commands import main
from vicreg_platform.cli.local import free_ports
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.tracking import Tracking

KNN = {"evaluations": [{"protocol": {"name": "knn"}}]}


def ended(platform: Platform, job: str, metrics: dict[str, float]) -> str:  # noqa: F811
    """A job that has succeeded with such metrics; its run."""
    platform.starts(job)
    run: str = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    for name, value in metrics.items():
        platform.tracking._client.log_metric(run, name, value)
    platform.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    answer = platform.http.get(f"/v1/jobs/{job}").json()
    assert (answer["state"], answer["summary"]) == ("succeeded", metrics)
    return run


def pretrained(platform: Platform, tmp_path: Path) -> tuple[str, str, str]:  # noqa: F811
    """A pretraining with an encoder, its run, and its evaluation, which has succeeded too."""
    job = platform.submit(**KNN)
    run = ended(platform, job, {"knn/top1": 0.4, "train/loss": 12.0})
    (tmp_path / "encoder.json").write_text("{}")
    platform.tracking._client.log_artifact(run, str(tmp_path / "encoder.json"), "encoder")
    (evaluation,) = platform.http.get("/v1/jobs", params={"parent": job}).json()["items"]
    ended(platform, evaluation["id"], {"knn/top1": 0.7})
    return job, run, evaluation["id"]


def register(platform: Platform, job: str, **body: Any) -> tuple[int, dict[str, Any]]:  # noqa: F811
    answer = platform.http.post(f"/v1/jobs/{job}/register", json={"model": job} | body)
    return answer.status_code, answer.json()


def test_a_version_has_the_scores_and_is_made_once(platform: Platform, tmp_path: Path) -> None:  # noqa: F811
    job, run, evaluation = pretrained(platform, tmp_path)
    body = {"alias": "candidate", "require": {"knn/top1": {">=": 0.6}, "train/loss": {"<": 20}}}
    first = register(platform, job, **body)
    assert first == (
        201,
        {
            "name": job,
            "version": 1,
            "alias": "candidate",
            "scores": {
                "knn/top1": {"value": 0.7, "job": evaluation},
                "train/loss": {"value": 12.0, "job": job},
            },
            "url": f"http://mlflow.example/#/models/{job}/versions/1",
        },
    )
    assert register(platform, job, **body) == first
    client = platform.tracking._client
    (version,) = client.search_model_versions(f"name = '{job}'")
    assert (version.source, version.run_id) == (f"runs:/{run}/encoder", run)
    assert version.tags == {
        "vicreg.job_id": job,
        "vicreg.backbone": "resnet18",
        "score.knn/top1": "0.7",
        "score.train/loss": "12.0",
    }
    files = platform.tracking.download(f"models:/{job}@candidate", tmp_path)
    assert next(files.rglob("encoder.json")).read_text() == "{}"
    # Another job takes the alias; the first one gets it back.
    other, _, _ = pretrained(platform, tmp_path)
    assert register(platform, other, model=job, alias="candidate")[1]["version"] == 2
    assert client.get_model_version_by_alias(job, "candidate").version == "2"
    assert register(platform, job, alias="candidate")[1]["version"] == 1
    assert client.get_model_version_by_alias(job, "candidate").version == "1"


def test_a_gate_that_is_not_met_makes_no_version(platform: Platform, tmp_path: Path) -> None:  # noqa: F811
    job, _, evaluation = pretrained(platform, tmp_path)
    gate = {"knn/top1": {">=": 0.8}, "linear/top1": {">": 0.1}}
    status, problem = register(platform, job, require=gate)
    assert (status, problem["code"]) == (409, "gate_not_met")
    assert problem["errors"] == [
        {
            "field": "require.knn/top1",
            "message": f"knn/top1 is 0.7 (job {evaluation}), and must be >= 0.8",
        },
        {
            "field": "require.linear/top1",
            "message": "linear/top1 has no value, and must be > 0.1",
        },
    ]
    assert platform.tracking._client.search_model_versions(f"name = '{job}'") == []


def test_only_a_pretraining_that_has_succeeded_is_registered(platform: Platform) -> None:  # noqa: F811
    job = platform.submit(**KNN)
    status, problem = register(platform, job)
    assert (status, problem["code"]) == (409, "illegal_transition")
    assert "is queued" in problem["detail"]
    (evaluation,) = platform.http.get("/v1/jobs", params={"parent": job}).json()["items"]
    status, problem = register(platform, evaluation["id"])
    assert (status, problem["code"]) == (422, "invalid_request")
    assert register(platform, "none", model="m")[0] == 404
    ended(platform, job, {})
    status, problem = register(platform, job)
    assert (status, "has no encoder" in problem["detail"]) == (404, True)


def test_an_unreachable_mlflow_is_a_503(
    platform: Platform,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, _, _ = pretrained(platform, tmp_path)
    (port,) = free_ports(1)
    nowhere = Tracking(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(platform.tracking, "_client", nowhere._client)
    status, problem = register(platform, job)
    assert (status, problem["code"]) == (503, "tracking_unavailable")


def test_only_the_owner_registers(platform: Platform, admin: Holder) -> None:  # noqa: F811
    alice = holder(platform, admin, "alice", "user")
    path = f"/v1/jobs/{alice.submit().json()['id']}/register"
    for other in (holder(platform, admin, "bob", "user"), holder(platform, admin, "c", "viewer")):
        assert other.ask("POST", path, json={"model": "m"}).status_code == 403
    assert alice.ask("POST", path, json={"model": "m"}).status_code == 409  # not succeeded yet


def test_from_the_command_line(
    platform: Platform,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, _, _ = pretrained(platform, tmp_path)
    command = ["vicreg", "register", job, f"m-{job}", "--api", str(platform.http.base_url)]

    def run(*options: str) -> int:
        monkeypatch.setattr("sys.argv", [*command, *options])
        with pytest.raises(SystemExit) as ending:
            main()
        assert isinstance(ending.value.code, int)
        return ending.value.code

    assert run("--alias", "candidate", "--require", "knn/top1>=0.6") == 0
    assert capsys.readouterr().out == f"models:/m-{job}/1\n"
    assert run("--require", "knn/top1>=0.9") == 1
    assert "knn/top1 is 0.7" in capsys.readouterr().err.replace("\n", " ")


def test_of_two_concurrent_calls_one_version_stays(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking, other = Tracking(mlflow_server.url), Tracking(mlflow_server.url)
    run, _ = tracking.ensure_run("race", "n", "e", DIGITS, None)
    (tmp_path / "encoder.json").write_text("{}")
    tracking._client.log_artifact(run, str(tmp_path / "encoder.json"), "encoder")
    create = tracking._client.create_model_version

    def overtaken(*arguments: Any, **options: Any) -> Any:
        assert other.register(run, "race", {}, None) == 1
        return create(*arguments, **options)

    monkeypatch.setattr(tracking._client, "create_model_version", overtaken)
    assert tracking.register(run, "race", {}, None) == 1
    (version,) = tracking._client.search_model_versions("name = 'race'")
    assert int(version.version) == 1
