"""What the control plane expects of MLflow: of a real server, and of the fake in its place."""

from __future__ import annotations

import math
import tempfile
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.fakes import FakeTracking
from tests.integration.conftest import MlflowServer
from vicreg_platform.contract.tags import (
    ATTEMPT_TAG,
    EXTENDS_TAG,
    JOB_TAG,
    PROGRESS_TAG,
    TIMELINE_TAG,
    TRIAL_TAG,
)
from vicreg_platform.contract.trial import Trial, TrialState, job_id_of_trial
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
    tracking.begin_training(run, begun, 0)
    assert tracking.trials(sweep) == [(begun, run, experiment)]
    ended = begun.model_copy(update={"state": TrialState.SUCCEEDED, "objective": 0.5, "epoch": 4})
    tracking.store_trial(run, ended)
    tracking.begin_training(run, begun, 0)  # a trial that resumes keeps its state
    assert tracking.trials(sweep) == [(ended, run, experiment)]


def test_a_trial_is_shown_by_the_run_of_its_first_seed(tracking: Tracking, job: str) -> None:
    sweep, _ = tracking.ensure_run(job, "sweep", "contract", SPEC | {"kind": "sweep"}, None)
    trial = Trial(number=3, parameters={"seed": 1}, epochs=4)
    runs = []
    for seed in range(2):
        name = job_id_of_trial(job, 3, seed)
        run, experiment = tracking.ensure_run(name, "trial", "contract", SPEC, sweep)
        tracking.begin_training(run, trial, seed)
        runs.append(run)
    assert tracking.trials(sweep) == [(trial, runs[0], experiment)]
    tracking.cancel_trials(sweep)
    ((cancelled, *_),) = tracking.trials(sweep)
    assert cancelled.state is TrialState.CANCELLED


def test_a_sweep_that_extends_another_has_its_trials_too(
    mlflow_server: MlflowServer, job: str
) -> None:
    tracking, client = Tracking(mlflow_server.url), MlflowClient(mlflow_server.url)
    before = None
    for number in range(3):  # each extends the one before
        name = f"{job}-{number}"
        sweep, _ = tracking.ensure_run(name, "sweep", "contract", SPEC | {"kind": "sweep"}, None)
        run, _ = tracking.ensure_run(
            job_id_of_trial(name, number), "trial", "contract", SPEC, sweep
        )
        tracking.begin_training(run, Trial(number=number, parameters={}, epochs=4), 0)
        if before is not None:
            client.set_tag(sweep, EXTENDS_TAG, before)
        before = sweep
    assert before is not None
    assert sorted(trial.number for trial, *_ in tracking.trials(before)) == [0, 1, 2]
    client.set_tag(before, EXTENDS_TAG, before)  # edited by hand: it leads back
    assert [trial.number for trial, *_ in tracking.trials(before)] == [2]
    assert tracking.trainings(before, 9) == []
    client.set_tag(before, EXTENDS_TAG, uuid.uuid4().hex)  # a run that is gone
    assert [trial.number for trial, *_ in tracking.trials(before)] == [2]


def test_every_run_of_a_trial_says_its_number_and_is_closed_with_the_sweep(
    mlflow_server: MlflowServer, job: str
) -> None:
    tracking = Tracking(mlflow_server.url)
    sweep, _ = tracking.ensure_run(job, "sweep", "contract", SPEC | {"kind": "sweep"}, None)
    client = MlflowClient(mlflow_server.url)
    for seed in range(3):
        name = job_id_of_trial(job, 3, seed)
        run, _ = tracking.ensure_run(name, "trial", "contract", SPEC, sweep)
        tracking.begin_training(run, Trial(number=3, parameters={}, epochs=4), seed)
        if seed == 0:
            tracking.end_training(run, TrialState.STOPPED)
    tracking.cancel_trials(sweep)
    runs = client.search_runs(
        [client.get_run(sweep).info.experiment_id], "tags.`vicreg.trial_number` = '3'"
    )
    ours = [run for run in runs if run.data.tags["mlflow.parentRunId"] == sweep]
    assert sorted(run.info.status for run in ours) == ["FINISHED", "KILLED", "KILLED"]


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


PROGRESS = '{"epoch": 1, "epochs": 2, "step": %s, "steps": 4, '
PROGRESS += '"images_per_second": 5, "eta_seconds": %s}'


@pytest.mark.parametrize(
    "tag",
    [
        "not json", '{"epoch": 1}', "[]", '"text"',
        PROGRESS % (3, "NaN"), PROGRESS % (3, "1e999"), PROGRESS % ("-1", 6),
        PROGRESS % (10**40, 6),
    ],
)  # fmt: skip
def test_what_was_edited_by_hand_is_not_read(
    mlflow_server: MlflowServer, job: str, tag: str
) -> None:
    tracking = Tracking(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    client = MlflowClient(mlflow_server.url)
    client.set_tag(run_id, PROGRESS_TAG, tag)
    client.set_tag(run_id, TIMELINE_TAG, tag)
    reading = tracking.read(run_id)
    assert (reading.progress, reading.timeline) == (None, None)


def test_of_two_runs_of_a_job_the_one_written_to_counts_and_the_other_goes(
    mlflow_server: MlflowServer, job: str
) -> None:
    tracking, client = Tracking(mlflow_server.url), MlflowClient(mlflow_server.url)
    first, experiment = tracking.ensure_run(job, "name", "contract", SPEC, None)
    # As when a request that timed out is executed after all.
    late = client.create_run(experiment, tags={JOB_TAG: job}).info.run_id
    assert tracking.run_of_job(job, "contract") == (first, experiment)
    client.set_tag(late, ATTEMPT_TAG, "1")  # its driver writes to this one
    assert tracking.run_of_job(job, "contract") == (late, experiment)
    tracking.remove_duplicates(job, "contract", late)
    assert client.get_run(first).info.lifecycle_stage == "deleted"
    assert client.get_run(late).info.lifecycle_stage == "active"


@pytest.mark.parametrize(
    "tag",
    [
        "not json", '{"number": 1}', "[]",
        '{"number": 0, "parameters": {}, "epochs": 4, "objective": -Infinity}',
    ],
)  # fmt: skip
def test_a_trial_that_was_edited_by_hand_is_left_out(
    mlflow_server: MlflowServer, job: str, tag: str
) -> None:
    tracking, client = Tracking(mlflow_server.url), MlflowClient(mlflow_server.url)
    sweep, _ = tracking.ensure_run(job, "sweep", "contract", SPEC | {"kind": "sweep"}, None)
    runs = []
    for number in range(2):
        run, _ = tracking.ensure_run(f"{job}/trials/{number}", "trial", "contract", SPEC, sweep)
        tracking.begin_training(run, Trial(number=number, parameters={}, epochs=4), 0)
        runs.append(run)
    client.set_tag(runs[0], TRIAL_TAG, tag)
    assert [trial.number for trial, *_ in tracking.trials(sweep)] == [1]


def test_a_log_of_any_bytes_is_kept_as_it_is(mlflow_server: MlflowServer, job: str) -> None:
    tracking = Tracking(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    pieces = [b"caf\xe9 \xff\x00\n", b"x" * 200_000]
    tracking.store_log(run_id, 1, pieces)
    assert b"".join(tracking.log(run_id, 1)) == b"".join(pieces)


def test_a_long_log_is_read_in_pieces_and_kept_nowhere(
    mlflow_server: MlflowServer, job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform's containers have their temporary files in 1 GB of memory."""
    tracking = Tracking(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    tracking.store_log(run_id, 1, (b"x" * 2**20 for _ in range(100)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracemalloc.start()
    try:
        count = 0
        for piece in tracking.log(run_id, 1):
            count += len(piece)
            assert list(tmp_path.iterdir()) == []
        assert count == 100 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_points_that_are_not_finite_are_not_shown(mlflow_server: MlflowServer, job: str) -> None:
    """MLflow stores an infinity as the largest number, beside which no other can be seen."""
    tracking, client = Tracking(mlflow_server.url), MlflowClient(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    for step, value in enumerate([1.0, math.inf, -math.inf, math.nan, 2.0]):
        client.log_metric(run_id, "gradient_norm", value, step=step)
    points = tracking.history(run_id, "gradient_norm")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (4, 2.0)]


def test_a_log_beyond_all_measure_is_cut(
    mlflow_server: MlflowServer, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vicreg_platform.tracking.LOG_BYTES", 1000)
    tracking = Tracking(mlflow_server.url)
    run_id, _ = tracking.ensure_run(job, "name", "contract", SPEC, None)
    tracking.store_log(run_id, 1, (b"x" * 600 for _ in range(10)))
    log = b"".join(tracking.log(run_id, 1))
    assert log.startswith(b"x" * 1000 + b"\n[the rest")
