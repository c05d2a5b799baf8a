"""What the control plane expects of MLflow: of a real server, and of the fake in its place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.fakes import FakeTracking
from tests.integration.conftest import MlflowServer
from vicreg_platform.contract.tags import PROGRESS_TAG
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.errors import NotFound
from vicreg_platform.tracking import Tracking

SPEC: dict[str, Any] = {"kind": "pretrain", "labels": {"team": "vision"}, "training": {"seed": 0}}


@pytest.fixture(params=["server", "fake"])
def tracking(request: pytest.FixtureRequest) -> Iterator[Tracking]:
    if request.param == "fake":
        yield FakeTracking()
    else:
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        yield Tracking(server.url)


@pytest.fixture
def job() -> str:
    return uuid.uuid4().hex


def test_a_job_has_one_run(tracking: Tracking, job: str) -> None:
    assert tracking.run_of_job(job, "contract") is None
    first = tracking.ensure_run(job, "name", "contract", SPEC, None)
    assert tracking.ensure_run(job, "name", "contract", SPEC, None) == first
    assert tracking.run_of_job(job, "contract") == first


def test_a_new_run_has_neither_progress_nor_metrics(tracking: Tracking, job: str) -> None:
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    reading = tracking.read(run_id)
    assert (reading.progress, reading.metrics) == (None, {})


def test_a_log_is_kept_for_each_attempt(tracking: Tracking, job: str) -> None:
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    assert not tracking.has_log(run_id, 1)
    with pytest.raises(NotFound):
        tracking.log(run_id, 1)
    tracking.store_log(run_id, 1, [b"epoch ", b"1\n"])
    assert tracking.has_log(run_id, 1)
    assert not tracking.has_log(run_id, 2)
    assert b"".join(tracking.log(run_id, 1)) == b"epoch 1\n"
    tracking.store_log(run_id, 1, [b"epoch 1\nepoch 2\n"])
    assert b"".join(tracking.log(run_id, 1)) == b"epoch 1\nepoch 2\n"


def test_trials_are_found_by_their_sweep(tracking: Tracking, job: str) -> None:
    sweep, _ = tracking.ensure_run(job, "sweep", "contract", SPEC | {"kind": "sweep"}, None)
    run, experiment = tracking.ensure_run(f"{job}/trials/0", "trial", "contract", SPEC, sweep)
    begun = Trial(number=0, parameters={"seed": 1}, epochs=4)
    tracking.begin_trial(run, begun)
    assert tracking.trials(sweep) == [(begun, run, experiment)]
    ended = begun.model_copy(update={"state": TrialState.SUCCEEDED, "objective": 0.5, "epoch": 4})
    tracking.store_trial(run, ended)
    tracking.begin_trial(run, begun)  # a trial that resumes keeps its state
    assert tracking.trials(sweep) == [(ended, run, experiment)]


def test_a_run_that_does_not_exist_is_not_found(tracking: Tracking) -> None:
    unknown = uuid.uuid4().hex
    for call in (
        lambda: tracking.read(unknown),
        lambda: tracking.finish(unknown, "FINISHED"),
        lambda: tracking.trials(unknown),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_finished_run_still_takes_its_log(tracking: Tracking, job: str) -> None:
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    tracking.finish(run_id, "KILLED")
    tracking.store_log(run_id, 1, [b"late\n"])
    assert b"".join(tracking.log(run_id, 1)) == b"late\n"


@pytest.mark.parametrize("tag", ["not json", '{"epoch": 1}', "[]", '"text"'])
def test_progress_that_was_edited_by_hand_is_no_progress(
    mlflow_server: MlflowServer, job: str, tag: str
) -> None:
    tracking = Tracking(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    MlflowClient(mlflow_server.url).set_tag(run_id, PROGRESS_TAG, tag)
    assert tracking.read(run_id).progress is None
