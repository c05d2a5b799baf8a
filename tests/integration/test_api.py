"""The API over a socket, with a real database; the cluster is the in-memory one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import yaml
from sqlalchemy import text

from tests.fakes import FakeCluster
from tests.integration.conftest import MlflowServer, wait_until
from vicreg_api.app import create_app
from vicreg_api.services import Services
from vicreg_platform.cli.commands import main
from vicreg_platform.cli.local import free_ports
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.dispatch.service import QueueService
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.service import KeyService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.tracking import Tracking
from vicreg_workers.tracking.run import run_of

DIGITS: dict[str, Any] = {"kind": "pretrain", "data": {"source": "digits"}}


@dataclass
class Platform:
    http: httpx.Client
    database: Database
    cluster: FakeCluster
    dispatcher: Dispatcher
    tracking: Tracking
    data_root: Path

    def submit(self, **changes: Any) -> str:
        answer = self.http.post("/v1/jobs", json=DIGITS | changes)
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def starts(self, job_id: str) -> None:
        """The job starts, and its driver comes up and creates the run."""
        self.dispatcher.round()
        argument = self.cluster.submitted[f"{job_id}-1"].arguments[-1]
        create = run_of(Assignment.model_validate_json(argument))
        assert callable(create)
        create()
        self.cluster.set(f"{job_id}-1", SubmissionState.RUNNING)
        self.dispatcher.round()


@pytest.fixture
def platform(database_url: str, tmp_path: Path, mlflow_server: MlflowServer) -> Iterator[Platform]:
    (port,) = free_ports(1)
    data_root = tmp_path / "data"
    data_root.mkdir()
    settings = Settings(
        database_url=database_url,
        ray_url="",
        mlflow_url=mlflow_server.url,
        mlflow_public_url="http://mlflow.example",
        storage=str(tmp_path),
        data_root=data_root,
    )
    database = Database(database_url)
    cluster, tracking = FakeCluster(), Tracking(mlflow_server.url)
    jobs = JobService(database, data_root, settings.mlflow_public_url)
    services = Services(
        database=database,
        cluster=cluster,
        tracking=tracking,
        jobs=jobs,
        control=JobControl(database, jobs),
        queue=QueueService(database, settings),
        schedules=ScheduleService(database, jobs),
        keys=KeyService(database),
        storage=settings.storage,
    )
    app = create_app(services)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        dispatcher = Dispatcher(database, cluster, tracking, settings)
        yield Platform(http, database, cluster, dispatcher, tracking, data_root)
    server.should_exit = True
    thread.join()


def test_a_job_is_stored_with_its_spec_resolved(platform: Platform) -> None:
    answer = platform.http.post("/v1/jobs", json=DIGITS | {"labels": {"team": "vision"}})
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["labels"]) == ("queued", {"team": "vision"})
    assert job["spec"]["method"]["variance"] == 25.0
    assert platform.http.get(answer.headers["location"]).json() == job
    assert set(job) >= {
        "id", "kind", "name", "state", "reason", "spec", "labels", "priority", "attempts",
        "mlflow", "progress", "progress_at", "summary", "created_at", "started_at", "finished_at",
    }  # fmt: skip


def test_yaml_is_taken_too(platform: Platform) -> None:
    answer = platform.http.post(
        "/v1/jobs",
        content="kind: pretrain\ndata: {source: digits}\n",
        headers={"content-type": "application/yaml"},
    )
    assert answer.status_code == 201


def test_every_fault_of_a_spec_is_in_one_problem(platform: Platform) -> None:
    answer = platform.http.post(
        "/v1/jobs", json={"kind": "pretrain", "data": {"source": "digits"}, "epochs": 1, "retry": 3}
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "invalid_spec"
    assert {"type", "title", "status", "detail", "code", "errors"} <= set(problem)
    assert {error["field"] for error in problem["errors"]} == {"epochs", "retry"}


def ended_sweep(platform: Platform) -> dict[str, Any]:
    """A sweep of five trials on the fake cluster, with real runs in MLflow."""
    sweep = {
        "kind": "sweep",
        "name": "search",
        "base": DIGITS | {"evaluations": [{"protocol": {"name": "knn"}}]},
        "space": {"method.variance": {"uniform": [1, 25]}},
    }
    answer = platform.http.post("/v1/jobs", json=sweep)
    assert answer.status_code == 201, answer.text
    job: dict[str, Any] = answer.json()
    refused = platform.http.post(f"/v1/jobs/{job['id']}/promote")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    platform.starts(job["id"])
    job = platform.http.get(f"/v1/jobs/{job['id']}").json()
    tracking = platform.tracking
    for number, (state, objective, epoch) in enumerate(
        [("stopped", 0.5, 1), ("succeeded", 0.7, 4), ("failed", None, 0), ("stopped", 0.6, 2)]
    ):
        parameters = {"method.variance": float(number + 1)}
        run_id, _ = tracking.ensure_run(
            f"{job['id']}/trials/{number}",
            f"t-{number}",
            "default",
            DIGITS,
            job["mlflow"]["run_id"],
        )
        trial = Trial(number=number, parameters=parameters, epochs=4)
        tracking.begin_training(run_id, trial, 0)
        known = {"state": TrialState(state), "objective": objective, "epoch": epoch}
        tracking.store_trial(run_id, trial.model_copy(update=known))
        tracking.begin_training(run_id, trial, 0)  # a trial that resumes keeps its state
    platform.cluster.set(f"{job['id']}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    return job


def test_a_sweeps_trials_are_ranked_sorted_and_paged(platform: Platform) -> None:
    path = f"/v1/jobs/{ended_sweep(platform)['id']}/trials"

    def numbers(**query: Any) -> list[int]:
        return [item["number"] for item in platform.http.get(path, params=query).json()["items"]]

    board = platform.http.get(path).json()
    assert [(item["rank"], item["number"]) for item in board["items"]] == [
        (1, 1),
        (2, 3),
        (3, 0),
        (None, 2),
    ]
    assert [item["stopped_early"] for item in board["items"]] == [False, True, True, False]
    assert board["items"][0]["parameters"] == {"method.variance": 2.0}
    assert board["items"][0]["mlflow"]["url"].startswith("http://mlflow.example/#/experiments/")
    assert numbers(sort="number") == [0, 1, 2, 3]
    assert numbers(sort="epoch") == [1, 3, 0, 2]
    page = platform.http.get(path, params={"limit": 3}).json()
    assert [item["number"] for item in page["items"]] == [1, 3, 0]
    assert numbers(limit=3, cursor=page["next_cursor"]) == [2]
    assert platform.http.get(path, params={"sort": "luck"}).status_code == 422
    other = platform.http.get(f"/v1/jobs/{platform.submit()}/trials")
    assert (other.status_code, other.json()["code"]) == (422, "invalid_request")


def test_a_sweep_is_extended_by_trials_and_a_pretraining_by_epochs(platform: Platform) -> None:
    job = ended_sweep(platform)
    path = f"/v1/jobs/{job['id']}/extend"
    answer = platform.http.post(path, json={"trials": 20})
    assert answer.status_code == 201, answer.text
    made = answer.json()["job"]
    assert answer.headers["Location"] == f"/v1/jobs/{made['id']}"
    assert (made["extends"], made["spec"]["search"]["trials"]) == (job["id"], 20)
    for body in ({}, {"epochs": 9}, {"trials": 20, "schedule": "anneal"}):
        refused = platform.http.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    refused = platform.http.post(path, json={"epochs": 9, "schedule": "anneal"})
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")


def test_the_best_of_a_sweep_is_promoted_with_its_evaluations(platform: Platform) -> None:
    job = ended_sweep(platform)
    answers = [platform.http.post(f"/v1/jobs/{job['id']}/promote") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    first, second = (answer.json() for answer in answers)
    assert first["id"] == second["id"]
    assert first["promoted_from"] == job["id"]
    assert first["spec"]["method"]["variance"] == 2.0
    waiting = platform.http.get("/v1/jobs", params={"kind": "evaluate"}).json()["items"]
    assert [item["depends_on"] for item in waiting] == [[first["id"]]]
    assert platform.http.post(f"/v1/jobs/{first['id']}/promote").status_code == 422


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"a: [", "application/yaml"),
        (b"a: &x [1]\nb: [*x, *x]", "application/yaml"),
        (b"\xff\xfe", "application/json"),
        (b"", "application/json"),
        (b"[" * 100_000, "application/json"),
    ],
)
def test_a_body_that_is_no_data_is_a_422(platform: Platform, body: bytes, kind: str) -> None:
    answer = platform.http.post("/v1/jobs", content=body, headers={"content-type": kind})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"


def test_a_body_over_the_limit_is_a_413_announced_or_not(platform: Platform) -> None:
    body = json.dumps(DIGITS | {"name": "x" * 1_100_000}).encode()
    announced = platform.http.post("/v1/jobs", content=body)
    streamed = platform.http.post("/v1/jobs", content=iter([body[:9000], body[9000:]]))
    assert announced.status_code == streamed.status_code == 413
    assert streamed.json()["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "does not exist"),
        ("empty", "holds no images"),
        ("file", "is not a folder"),
        ("link", "outside the data root"),
        ("../data", "cannot leave"),
    ],
)
def test_a_data_path_that_cannot_work_is_refused_at_post(
    platform: Platform, path: str, message: str
) -> None:
    (platform.data_root / "empty" / "class").mkdir(parents=True)
    (platform.data_root / "file").write_text("")
    (platform.data_root / "link").symlink_to("/etc")
    answer = platform.http.post(
        "/v1/jobs", json={"kind": "pretrain", "data": {"source": "image_folder", "path": path}}
    )
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "data.path"
    assert message in error["message"]


@pytest.mark.parametrize(
    ("data", "field", "message"),
    [
        ({"source": "webdataset", "shards": "set/{00..01}.tar"}, None, None),
        ({"source": "webdataset", "shards": "set"}, None, None),
        ({"source": "webdataset", "shards": "no/{00..01}.tar"}, "data.shards", "does not exist"),
        ({"source": "webdataset", "shards": "ftp://a/b"}, "data.shards", "must start with one of"),
        ({"source": "huggingface", "path": "set"}, None, None),
        ({"source": "huggingface", "path": "none"}, "data.path", "does not exist"),
        ({"source": "image_folder", "path": "flat"}, None, None),
        ({"source": "image_folder", "path": "flat", "classes": "none"}, None, None),
        (
            {"source": "image_folder", "path": "flat", "classes": "folders"},
            "data.path",
            "holds no images: there must be some in its sub-folders",
        ),
    ],
)
def test_every_layout_is_looked_at_before_a_job_is_stored(
    platform: Platform, data: dict[str, Any], field: str | None, message: str | None
) -> None:
    for folder, file in (("set", "00.tar"), ("flat", "a.jpg")):
        (platform.data_root / folder).mkdir()
        (platform.data_root / folder / file).write_bytes(b"")
    answer = platform.http.post("/v1/jobs", json={"kind": "pretrain", "data": data})
    if field is None:
        assert answer.status_code == 201, answer.text
        return
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert message is not None
    assert message in error["message"]


def test_what_the_api_cannot_see_is_said(platform: Platform) -> None:
    data = {"source": "webdataset", "shards": "s3://bucket/set"}
    answer = platform.http.post(
        "/v1/jobs", params={"dry_run": True}, json={"kind": "pretrain", "data": data}
    )
    assert answer.json()["warnings"] == [
        "data.shards was not checked: the workers read it, not the API"
    ]


def test_an_unknown_job_is_a_404(platform: Platform) -> None:
    for method, path in [
        ("GET", ""), ("GET", "/events"), ("GET", "/logs"), ("GET", "/metrics"),
        ("POST", "/cancel"), ("POST", "/retry"), ("POST", "/clone"),
    ]:  # fmt: skip
        answer = platform.http.request(method, f"/v1/jobs/nothing{path}")
        assert answer.status_code == 404, path
        assert answer.json()["code"] == "not_found"
    assert platform.http.get("/v1/nothing").json()["status"] == 404
    assert platform.http.delete("/v1/jobs").status_code == 405


def test_a_dry_run_resolves_and_stores_nothing(platform: Platform) -> None:
    answer = platform.http.post("/v1/jobs", params={"dry_run": True}, json=DIGITS)
    assert answer.status_code == 200
    assert answer.json()["spec"]["training"]["batch_size"] == 256
    assert answer.json()["warnings"] == []
    assert platform.http.get("/v1/jobs").json()["items"] == []


def test_the_same_key_and_body_get_the_first_answer_again(platform: Platform) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = platform.http.post("/v1/jobs", json=DIGITS, headers=headers)
    platform.http.post(f"/v1/jobs/{first.json()['id']}/cancel")
    second = platform.http.post("/v1/jobs", json=DIGITS, headers=headers)
    assert second.status_code == 201
    assert second.json() == first.json()
    assert second.headers["idempotency-replayed"] == "true"
    other = platform.http.post("/v1/jobs", json=DIGITS | {"priority": 1}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert len(platform.http.get("/v1/jobs").json()["items"]) == 1


def test_the_first_answer_is_given_again_whatever_has_become_of_its_data(
    platform: Platform,
) -> None:
    image = platform.data_root / "set" / "class" / "0.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"")
    spec = {"kind": "pretrain", "data": {"source": "image_folder", "path": "set"}}
    headers = {"Idempotency-Key": "k"}
    first = platform.http.post("/v1/jobs", json=spec, headers=headers)
    image.unlink()
    assert platform.http.post("/v1/jobs", json=spec, headers=headers).json() == first.json()
    wrong = platform.http.post("/v1/jobs", json={"kind": "none"}, headers=headers)
    assert wrong.status_code == 409


def test_odd_requests_are_refused_and_none_is_a_500(platform: Platform) -> None:
    job = platform.submit()
    odd = [
        platform.http.get("/v1/jobs/%00"),
        platform.http.get("/v1/jobs", params={"experiment": "\x00"}),
        platform.http.get("/v1/jobs", params={"label": "a=\x00"}),
        platform.http.get(f"/v1/jobs/{job}/events", params={"cursor": "9" * 60}),
        platform.http.post(
            "/v1/jobs",
            json={"kind": "pretrain", "data": {"source": "image_folder", "path": "x" * 400}},
        ),
        platform.http.post(
            "/v1/jobs",
            content="kind: pretrain\ndata: {source: digits}\nlabels: {day: 2025-01-01}\n",
            headers={"content-type": "application/yaml"},
        ),
    ]
    assert [answer.status_code for answer in odd] == [422, 422, 422, 200, 422, 201]
    assert odd[-1].json()["labels"] == {"day": "2025-01-01"}


def test_one_key_sent_many_times_at_once_makes_one_job(platform: Platform) -> None:
    answers: list[httpx.Response] = []

    def post() -> None:
        answers.append(
            platform.http.post("/v1/jobs", json=DIGITS, headers={"Idempotency-Key": "k"})
        )

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(platform.http.get("/v1/jobs").json()["items"]) == 1


def test_jobs_are_listed_page_by_page_and_filtered(platform: Platform) -> None:
    jobs = [platform.submit(labels={"n": str(n)}, experiment=f"e{n % 2}") for n in range(5)]
    first = platform.http.get("/v1/jobs", params={"limit": 3}).json()
    second = platform.http.get(
        "/v1/jobs", params={"limit": 3, "cursor": first["next_cursor"]}
    ).json()
    assert sorted(j["id"] for j in first["items"] + second["items"]) == sorted(jobs)
    assert second["next_cursor"] is None
    platform.http.post(f"/v1/jobs/{jobs[0]}/cancel")

    def listed(**params: Any) -> list[str]:
        return [j["id"] for j in platform.http.get("/v1/jobs", params=params).json()["items"]]

    assert listed(state="cancelled") == [jobs[0]]
    assert listed(label=["n=3"]) == [jobs[3]]
    assert sorted(listed(experiment="e1")) == sorted([jobs[1], jobs[3]])
    assert listed(kind="evaluate") == []
    for wrong in ({"label": "n"}, {"limit": 0}, {"state": "sleeping"}, {"cursor": "' or 1"}):
        assert platform.http.get("/v1/jobs", params=wrong).status_code == 422


def test_a_cancelled_job_cannot_be_cancelled_again(platform: Platform) -> None:
    job = platform.submit()
    assert platform.http.post(f"/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    again = platform.http.post(f"/v1/jobs/{job}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    events = platform.http.get(f"/v1/jobs/{job}/events").json()
    assert [e["after"] for e in events["items"]] == ["queued", "cancelled"]
    page = platform.http.get(f"/v1/jobs/{job}/events", params={"limit": 1}).json()
    rest = platform.http.get(f"/v1/jobs/{job}/events", params={"cursor": page["next_cursor"]})
    assert [e["after"] for e in rest.json()["items"]] == ["cancelled"]


def test_an_ended_job_is_retried_and_any_job_cloned(platform: Platform) -> None:
    job = platform.submit(training={"epochs": 4})
    assert platform.http.post(f"/v1/jobs/{job}/retry").status_code == 409
    platform.http.post(f"/v1/jobs/{job}/cancel")
    platform.http.patch(f"/v1/jobs/{job}", json={"labels": {"team": "vision"}})
    retry = platform.http.post(f"/v1/jobs/{job}/retry")
    assert retry.status_code == 201
    assert retry.json()["retry_of"] == job
    assert retry.json()["labels"] == {"team": "vision"}
    clone = platform.http.post(
        f"/v1/jobs/{job}/clone", json={"overrides": {"training.epochs": 30, "name": "longer"}}
    )
    assert clone.status_code == 201
    training = clone.json()["spec"]["training"]
    assert (training["epochs"], training["warmup_epochs"]) == (30, 10)
    assert platform.http.post(f"/v1/jobs/{job}/clone").json()["name"] == "vicreg-resnet18"
    refused = platform.http.post(f"/v1/jobs/{job}/clone", json={"overrides": {"traning.epochs": 1}})
    assert refused.json()["errors"][0]["message"] == "unknown field; did you mean 'training'?"


def test_an_evaluation_of_no_encoder_is_refused(platform: Platform) -> None:
    digits = {"source": "digits"}
    spec = {
        "kind": "evaluate",
        "protocol": {"name": "knn"},
        "data": {"train": digits, "test": digits | {"split": "test"}},
    }

    def refusal(job: str) -> str:
        answer = platform.http.post("/v1/jobs", json=spec | {"encoder": {"job": job}})
        assert answer.status_code == 422
        return str(answer.json()["errors"][0]["message"])

    assert "no job" in refusal("nothing")
    job = platform.submit()
    waiting = platform.http.post("/v1/jobs", json=spec | {"encoder": {"job": job}}).json()
    assert (waiting["state"], waiting["depends_on"]) == ("waiting", [job])
    assert "not a pretraining" in refusal(waiting["id"])
    platform.http.post(f"/v1/jobs/{job}/cancel")
    assert "has no encoder" in refusal(job)


def test_a_pretraining_waits_for_the_job_that_it_starts_from(platform: Platform) -> None:
    first = platform.submit()

    def answer(job: str) -> httpx.Response:
        spec = {"kind": "pretrain", "data": {"source": "digits"}, "init": {"job": job}}
        return platform.http.post("/v1/jobs", json=spec)

    second = answer(first).json()
    assert (second["state"], second["depends_on"]) == ("waiting", [first])
    # It is a training of its own, not a part of the other.
    assert second["parent"] is None
    (fault,) = answer("nothing").json()["errors"]
    assert (fault["field"], "no job" in fault["message"]) == ("init.job", True)
    sweep = {
        "kind": "sweep",
        "base": {"data": {"source": "digits"}, "init": {"job": "nothing"}},
        "space": {"optimizer.layer_decay": {"uniform": [0.5, 1.0]}},
    }
    (fault,) = platform.http.post("/v1/jobs", json=sweep).json()["errors"]
    assert fault["field"] == "base.init.job"


def test_only_an_encoder_that_a_training_keeps_is_evaluated(platform: Platform) -> None:
    digits = {"source": "digits"}
    knn = {"protocol": {"name": "knn"}, "at_epochs": [10, 50]}
    training = {"kind": "pretrain", "data": digits, "evaluations": [knn]}
    job = platform.http.post("/v1/jobs", json=training).json()["id"]
    listed = platform.http.get(f"/v1/jobs?parent={job}").json()["items"]
    assert {(each["spec"]["encoder"]["epoch"], each["state"]) for each in listed} == {
        (10, "waiting"), (50, "waiting"), (None, "waiting"),
    }  # fmt: skip
    assert "for epoch 10 of job" in " ".join(str(each["reason"]) for each in listed)
    spec = {
        "kind": "evaluate",
        "protocol": {"name": "linear"},
        "data": {"train": digits, "test": digits | {"split": "test"}},
    }
    answer = platform.http.post("/v1/jobs", json=spec | {"encoder": {"job": job, "epoch": 10}})
    assert answer.json()["state"] == "waiting"
    answer = platform.http.post("/v1/jobs", json=spec | {"encoder": {"job": job, "epoch": 11}})
    (fault,) = answer.json()["errors"]
    assert fault["field"] == "encoder.epoch"
    assert "keeps no encoder of epoch 11; it keeps: 10, 50" in fault["message"]


def test_logs_are_streamed_and_outlive_the_ray_head(platform: Platform) -> None:
    job = platform.submit()
    platform.starts(job)
    platform.cluster.logs[f"{job}-1"] = "one\n"
    received: list[str] = []

    def follow() -> None:
        with platform.http.stream("GET", f"/v1/jobs/{job}/logs?follow=true") as answer:
            received.extend(answer.iter_text())

    thread = threading.Thread(target=follow)
    thread.start()
    wait_until(lambda: "".join(received) == "one\n")
    platform.cluster.logs[f"{job}-1"] += "two\n"
    wait_until(lambda: "".join(received) == "one\ntwo\n")
    platform.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    thread.join(30)
    assert not thread.is_alive()
    platform.cluster.lose_everything()
    assert platform.http.get(f"/v1/jobs/{job}/logs").text == "one\ntwo\n"
    assert platform.http.get(f"/v1/jobs/{job}/logs?attempt=2").status_code == 422


def test_a_log_is_followed_from_an_attempt_on(platform: Platform) -> None:
    job = platform.submit()
    platform.starts(job)
    platform.cluster.logs[f"{job}-1"] = "first\n"
    platform.cluster.set(f"{job}-1", SubmissionState.FAILED, 137)
    platform.dispatcher.round()

    def retried() -> bool:
        platform.dispatcher.round()
        return f"{job}-2" in platform.cluster.submitted

    wait_until(retried)
    platform.cluster.logs[f"{job}-2"] = "second\n"
    platform.cluster.set(f"{job}-2", SubmissionState.SUCCEEDED, 0)
    platform.dispatcher.round()
    assert platform.http.get(f"/v1/jobs/{job}").json()["state"] == "succeeded"
    both = "first\nsecond\n"
    for asked, log in (("", both), ("&attempt=1", both), ("&attempt=2", "second\n")):
        assert platform.http.get(f"/v1/jobs/{job}/logs?follow=true{asked}").text == log


def test_a_jobs_run_is_in_mlflow_with_its_parameters(
    platform: Platform, mlflow_server: MlflowServer
) -> None:
    job = platform.submit(labels={"team": "vision"}, experiment="parameters")
    platform.starts(job)
    run = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]
    found = httpx.get(
        f"{mlflow_server.url}/api/2.0/mlflow/runs/get", params={"run_id": run["run_id"]}
    ).json()["run"]
    parameters = {p["key"]: p["value"] for p in found["data"]["params"]}
    assert parameters["method.variance"] == "25.0"
    assert parameters["expander.layers"] == "[2048, 2048, 2048]"
    tags = {t["key"]: t["value"] for t in found["data"]["tags"]}
    assert (tags["vicreg.job_id"], tags["label.team"]) == (job, "vision")
    experiment = found["info"]["experiment_id"]
    assert run["url"] == (f"http://mlflow.example/#/experiments/{experiment}/runs/{run['run_id']}")


def test_metrics_come_from_the_run(platform: Platform, mlflow_server: MlflowServer) -> None:
    job = platform.submit()
    assert platform.http.get(f"/v1/jobs/{job}/metrics").json() == {"items": {}}
    platform.starts(job)
    run_id = platform.http.get(f"/v1/jobs/{job}").json()["mlflow"]["run_id"]
    for step in (1, 2):
        httpx.post(
            f"{mlflow_server.url}/api/2.0/mlflow/runs/log-metric",
            json={"run_id": run_id, "key": "train/loss", "value": 3.5 - step, "step": step,
                  "timestamp": step},
        ).raise_for_status()  # fmt: skip
    items = platform.http.get(f"/v1/jobs/{job}/metrics").json()["items"]
    assert [(p["step"], p["value"]) for p in items["train/loss"]] == [(1, 2.5), (2, 1.5)]
    many = platform.http.get(f"/v1/jobs/{job}/metrics", params={"key": ["a"] * 21})
    assert many.status_code == 422


def test_readiness_names_what_is_not_there(platform: Platform) -> None:
    assert platform.http.get("/healthz").json() == {"status": "ok"}
    early = platform.http.get("/readyz")
    assert early.status_code == 503
    assert "no dispatcher" in early.json()["checks"]["dispatcher"]
    platform.dispatcher.round()
    assert platform.http.get("/readyz").json()["ready"]
    platform.cluster.reachable = False
    answer = platform.http.get("/readyz")
    assert answer.status_code == 503
    checks = answer.json()["checks"]
    assert [name for name, text in checks.items() if text != "ok"] == ["ray"]
    cluster = platform.http.get("/v1/cluster")
    assert (cluster.status_code, cluster.json()["code"]) == (503, "cluster_unavailable")
    assert cluster.headers["retry-after"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/v1/jobs/{job}", '{"priority": 1, "priority": 900}'),
        ("POST", "/v1/jobs/bulk", '{"action": "retry", "action": "cancel", "jobs": ["{job}"]}'),
        ("POST", "/v1/jobs/{job}/clone", '{"overrides": {"priority": 1, "priority": 900}}'),
        ("POST", "/v1/keys", '{"name": "a", "role": "viewer", "role": "admin"}'),
        ("POST", "/v1/session", '{"key": "a", "key": "b"}'),
    ],
)
def test_a_field_given_twice_is_refused_everywhere(
    platform: Platform, method: str, path: str, body: str
) -> None:
    job = platform.submit()
    answer = platform.http.request(
        method,
        path.replace("{job}", job),
        content=body.replace("{job}", job),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    assert "twice" in answer.json()["detail"]
    assert platform.http.get(f"/v1/jobs/{job}").json()["priority"] == 0


def test_the_cluster_is_described(platform: Platform) -> None:
    description = {
        "nodes": [{"cpus": 4, "gpus": 0}],
        "total": {"cpus": 4, "gpus": 0},
        "used": {"cpus": 0, "gpus": 0},
        "waited_for": {"cpus": 0, "gpus": 0},
    }
    assert platform.http.get("/v1/cluster").json() == description
    resources = {"workers": 2, "cpus_per_worker": 3, "gpus_per_worker": 1}
    platform.submit(resources=resources)
    platform.submit()
    paused = platform.submit()
    platform.http.post(f"/v1/jobs/{paused}/pause")
    description["waited_for"] = {"cpus": 7, "gpus": 2}
    assert platform.http.get("/v1/cluster").json() == description


def test_the_openapi_examples_work_when_pasted(platform: Platform) -> None:
    body = platform.http.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]
    examples = body["content"]["application/json"]["examples"]
    assert set(examples) == {"pretrain", "evaluate"}
    for example in examples.values():
        assert platform.http.post("/v1/jobs", json=example["value"]).status_code == 201
    states = {job["state"] for job in platform.http.get("/v1/jobs").json()["items"]}
    assert states == {JobState.QUEUED.value, JobState.WAITING.value}


def test_a_file_of_several_specs_is_several_jobs_or_none(
    platform: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # A platform that ran in this folder has left a key of its own.
    monkeypatch.setenv("VICREG_HOME", str(tmp_path))

    def submit(*documents: dict[str, Any]) -> int:
        file = tmp_path / "specs.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        address = str(platform.http.base_url)
        monkeypatch.setattr("sys.argv", ["vicreg", "submit", str(file), "--api", address])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert submit(DIGITS | {"name": "first"}, DIGITS | {"epochs": 3}) == 2
    refused = " ".join(capsys.readouterr().err.split())
    assert "specs.yaml:8" in refused.replace(" ", "")
    assert "epochs: unknown field" in refused
    assert platform.http.get("/v1/jobs").json()["items"] == []
    assert submit(DIGITS | {"name": "first"}, DIGITS | {"name": "second"}) == 0
    ids = capsys.readouterr().out.split()
    names = [platform.http.get(f"/v1/jobs/{job}").json()["name"] for job in ids]
    assert names == ["first", "second"]


def test_the_addresses_are_those_that_others_rely_on(platform: Platform) -> None:
    assert set(platform.http.get("/openapi.json").json()["paths"]) == {
        "/healthz",
        "/readyz",
        "/v1/audit",
        "/v1/cluster",
        "/v1/cluster/nodes",
        "/v1/events",
        "/v1/events/stream",
        "/v1/jobs",
        "/v1/jobs/bulk",
        "/v1/jobs/counts",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/artifacts",
        "/v1/jobs/{job_id}/artifacts/{path}",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/clone",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/extend",
        "/v1/jobs/{job_id}/importance",
        "/v1/jobs/{job_id}/logs",
        "/v1/jobs/{job_id}/metrics",
        "/v1/jobs/{job_id}/pause",
        "/v1/jobs/{job_id}/promote",
        "/v1/jobs/{job_id}/register",
        "/v1/jobs/{job_id}/request",
        "/v1/jobs/{job_id}/resume",
        "/v1/jobs/{job_id}/retry",
        "/v1/jobs/{job_id}/trials",
        "/v1/jobs/{job_id}/trials/{number}",
        "/v1/jobs/{job_id}/trials/{number}/metrics",
        "/v1/jobs/{job_id}/checkpoints",
        "/v1/keys",
        "/v1/keys/{prefix}",
        "/v1/metrics",
        "/v1/queue",
        "/v1/recipes",
        "/v1/schedules",
        "/v1/schedules/{schedule_id}",
        "/v1/schedules/{schedule_id}/pause",
        "/v1/schedules/{schedule_id}/resume",
        "/v1/schedules/{schedule_id}/run-now",
        "/v1/schedules/{schedule_id}/ticks",
        "/v1/schemas/{what}",
        "/v1/session",
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("spec", '{"labels": 3}'), ("spec", '{"labels": {"a": null}}'), ("spec", "[1]"),
        ("summary", '{"train/loss": "much"}'), ("summary", "[]"), ("summary", '"text"'),
        ("progress", '{"epoch": 1}'), ("progress", "3"), ("state", "hibernating"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_whole_is_shown_without_the_rest(
    platform: Platform, column: str, value: str
) -> None:
    broken, sound = platform.submit(), platform.submit()
    with platform.database.write() as session:
        statement = text(f"UPDATE jobs SET {column} = :value WHERE id = :id")
        session.execute(statement, {"value": value, "id": broken})
    answer = platform.http.get("/v1/jobs")
    assert answer.status_code == 200, answer.text
    assert {job["id"] for job in answer.json()["items"]} == {broken, sound}
    assert platform.http.get(f"/v1/jobs/{broken}").status_code == 200
    platform.dispatcher.round()
    assert platform.http.get(f"/v1/jobs/{sound}").json()["state"] == "starting"


def test_few_labels_are_searched_for_at_once(platform: Platform) -> None:
    labels = [f"k{number}=v" for number in range(11)]
    assert platform.http.get("/v1/jobs", params={"label": labels[:10]}).status_code == 200
    refused = platform.http.get("/v1/jobs", params={"label": labels})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "body", ['{"kind": "pretrain", "kind": "sweep"}', '{"a": NaN}', '{"a": "\\ud800"}']
)
def test_a_body_that_two_would_read_differently_is_refused(platform: Platform, body: str) -> None:
    answer = platform.http.post("/v1/jobs", content=body)
    assert answer.status_code == 422


@pytest.mark.parametrize(
    "overrides", [{".".join("a" * 2000): 1}, {"name": "\ud800"}, {"a": [[[]]] * 2}]
)
def test_a_clone_with_changes_that_fit_nothing_is_refused(
    platform: Platform, overrides: dict[str, Any]
) -> None:
    job = platform.submit()
    body = json.dumps({"overrides": overrides})
    answer = platform.http.post(f"/v1/jobs/{job}/clone", content=body)
    assert answer.status_code == 422, answer.text
