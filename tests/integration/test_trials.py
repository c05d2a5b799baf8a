"""One trial of a sweep over HTTP: its seeds and their curves, from a real MLflow server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.conftest import MlflowServer
from tests.integration.test_api import DIGITS, Platform, platform  # noqa: F401
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import EXTENDS_TAG, PROGRESS_TAG
from vicreg_platform.contract.trial import Trial, TrialState, job_id_of_trial
from vicreg_platform.tracking import mlflow_client

CUT = Trial(
    number=1,
    parameters={"method.variance": 5.0},
    epochs=4,
    state=TrialState.STOPPED,
    objective=0.4,
    values=(0.3, 0.5),
    std=0.14,
    epoch=2,
)


def tried_sweep(platform: Platform, url: str) -> dict[str, Any]:  # noqa: F811
    """A sweep of two seeds whose second trial was cut after two epochs."""
    answer = platform.http.post(
        "/v1/jobs",
        json={
            "kind": "sweep",
            "name": "search",
            "base": DIGITS,
            "space": {"method.variance": {"uniform": [1, 25]}},
            "search": {"trials": 4, "seeds": 2},
        },
    )
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    platform.starts(job_id)
    job: dict[str, Any] = platform.http.get(f"/v1/jobs/{job_id}").json()
    sweep_run, client = job["mlflow"]["run_id"], mlflow_client(url)
    for trial in (Trial(number=0, parameters={"method.variance": 1.0}, epochs=4), CUT):
        for seed in range(2):
            spec = DIGITS | {"training": {"seed": 10 + seed}}
            name = job_id_of_trial(job_id, trial.number, seed)
            run, _ = platform.tracking.ensure_run(name, "t", "default", spec, sweep_run)
            platform.tracking.begin_training(run, trial, seed)
            if trial is not CUT:
                continue
            if seed == 0:
                platform.tracking.store_trial(run, trial)
            for step in range(1, 23):
                client.log_metric(run, "knn/top1", step / 100 + seed, step=step)
            told = Progress(
                epoch=2, epochs=4, step=22, steps=44, images_per_second=1.0, eta_seconds=0.0
            )
            client.set_tag(run, PROGRESS_TAG, told.model_dump_json())
            platform.tracking.end_training(run, TrialState.STOPPED)
    return job


def test_a_trial_has_its_parameters_its_seeds_and_their_curves(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    job = tried_sweep(platform, mlflow_server.url)
    path = f"/v1/jobs/{job['id']}/trials"
    cut = platform.http.get(f"{path}/1").json()
    listed = platform.http.get(path).json()["items"]
    trainings = cut.pop("trainings")
    assert cut == next(each for each in listed if each["number"] == 1)
    assert [(each["seed"], each["state"]) for each in trainings] == [
        (10, "stopped"),
        (11, "stopped"),
    ]
    assert trainings[1]["summary"] == {"knn/top1": 1.22}
    assert trainings[1]["progress"]["epoch"] == 2
    assert trainings[0]["mlflow"] == cut["mlflow"]
    assert trainings[1]["mlflow"]["url"].startswith("http://mlflow.example/#/experiments/")
    running = platform.http.get(f"{path}/0").json()
    assert [each["state"] for each in running["trainings"]] == ["running", "running"]

    def curve(number: int = 1, **query: Any) -> httpx.Response:
        return platform.http.get(f"{path}/{number}/metrics", params={"key": "knn/top1"} | query)

    points = curve().json()["items"]["knn/top1"]
    assert [point["step"] for point in points] == list(range(1, 23))
    thinned = curve(seed=11, points=3).json()["items"]["knn/top1"]
    assert [(point["step"], point["value"]) for point in thinned] == [
        (1, 1.01), (11, 1.11), (22, 1.22),
    ]  # fmt: skip
    assert curve(seed=12).status_code == 404
    assert curve(number=7).status_code == 404
    assert curve(key=["a"] * 21).status_code == 422
    assert curve(points=5001).status_code == 422
    # MLflow knows no such metric.
    assert curve(key="unknown").json() == {"items": {"unknown": []}}


@pytest.mark.parametrize("number", [7, 2**31 - 1])
def test_a_trial_that_has_not_begun_is_not_found(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
    number: int,
) -> None:
    job = tried_sweep(platform, mlflow_server.url)
    answer = platform.http.get(f"/v1/jobs/{job['id']}/trials/{number}")
    assert answer.status_code == 404
    assert f"has no trial {number}" in answer.json()["detail"]
    waiting = platform.submit()
    for path in (f"/v1/jobs/{waiting}/trials/0", f"/v1/jobs/{waiting}/trials/0/metrics?key=a"):
        refused = platform.http.get(path)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert platform.http.get(f"/v1/jobs/{job['id']}/trials/-1").status_code == 422


def test_a_sweep_that_extends_another_shows_its_trials(
    platform: Platform,  # noqa: F811
    mlflow_server: MlflowServer,
) -> None:
    first = tried_sweep(platform, mlflow_server.url)
    tracking, job = platform.tracking, f"{first['id']}-more"
    run, _ = tracking.ensure_run(job, "more", "default", {"kind": "sweep"}, None)
    client = mlflow_client(mlflow_server.url)
    client.set_tag(run, EXTENDS_TAG, first["mlflow"]["run_id"])
    assert [each.seed for each in tracking.trainings(run, 1)] == [10, 11]
    assert tracking.trainings(run, 7) == []
