"""Sweeps over the real platform: searched, judged, promoted, and survived."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.conftest import Running, small
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.jobs.schemas import JobSchema, TrialSchema
from vicreg_platform.jobs.states import JobState

OUTAGE_SECONDS = 15.0
OVERFLOWS = 100.0
"""A learning rate, the largest that the field takes, whose first epoch ends at an infinity."""


def sweep(**changes: Any) -> dict[str, Any]:
    base = small(training={"epochs": 4, "batch_size": 128})
    for name in ("name", "experiment", "kind"):
        del base[name]
    return {
        "kind": "sweep",
        "experiment": "e2e-sweeps",
        "base": base,
        "search": {"algorithm": "grid"},
        "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 2},
    } | changes


def rates(*values: float) -> dict[str, Any]:
    return {"optimizer.base_lr": {"grid": list(values)}}


def until_trials(
    running: Running, job: JobSchema, ended: int, timeout: float = 240.0
) -> list[TrialSchema]:
    deadline = time.monotonic() + timeout
    while True:
        trials = running.client.trials(job.id).items
        if sum(trial.state is not TrialState.RUNNING for trial in trials) >= ended:
            return trials
        assert time.monotonic() < deadline, trials
        time.sleep(0.5)


def starts(running: Running, job: JobSchema) -> list[int]:
    """How often each training was started or resumed, in the order of trials and seeds."""
    files = (running.storage / job.id / "trials").glob("*.json")
    return [json.loads(file.read_text())["starts"] for file in sorted(files, key=lambda f: f.stem)]


def test_asha_ends_with_room_for_one_trial_and_mlflow_away(running: Running) -> None:
    """Fails without: ``reuse_actors`` or the end of stopped trials' processes (no room for the
    next), ``run_trial``'s report of failures (Tune would try again, then give the sweep up),
    ``Reporter``'s thread (MLflow's absence would end the driver)."""
    request = sweep(
        name="asha",
        base=sweep()["base"] | {"resources": {"cpus_per_worker": 2}},
        space=rates(0.3, OVERFLOWS, 0.1, 0.03, 0.01, 0.003, 0.001),
        search={"algorithm": "grid", "trials": 6},
        concurrency=2,
    )
    job = running.client.submit(request)
    until_trials(running, job, 2)
    mlflow = running.child("mlflow")
    mlflow.not_before = time.monotonic() + OUTAGE_SECONDS
    mlflow.end()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert len(ended.attempts) == 1

    trials = running.client.trials(job.id, sort="number").items
    assert [trial.parameters["optimizer.base_lr"] for trial in trials] == [
        0.3,
        OVERFLOWS,
        0.1,
        0.03,
        0.01,
        0.003,
    ]
    overflown = trials[1]
    assert (overflown.state, overflown.failure) == (TrialState.FAILED, "diverged")
    assert "step" in str(overflown.reason)
    others = [trial for trial in trials if trial is not overflown]
    assert {trial.state for trial in others} == {TrialState.SUCCEEDED, TrialState.STOPPED}
    assert all((trial.epoch < 4) == trial.stopped_early for trial in others)
    assert sum(trial.epoch for trial in trials) == ended.summary["sweep/epochs"] < 5 * 4
    assert starts(running, job) == [1] * 6

    board = running.client.trials(job.id).items
    assert [trial.rank for trial in board] == [1, 2, 3, 4, 5, None]
    scores = [trial.objective for trial in board[:5]]
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))
    assert board[0].objective == ended.summary["sweep/best"]

    assert ended.mlflow is not None
    client = MlflowClient(running.platform.mlflow_url)
    pictures = {file.path for file in client.list_artifacts(ended.mlflow.run_id, "sweep")}
    assert pictures == {
        "sweep/best.json",
        "sweep/objective.png",
        "sweep/parallel_coordinates.png",
    }
    for trial in trials:
        run = client.get_run(trial.mlflow.run_id)
        assert run.data.tags["mlflow.parentRunId"] == ended.mlflow.run_id
        assert float(run.data.params["optimizer.base_lr"]) == trial.parameters["optimizer.base_lr"]
        assert run.info.status == ("FAILED" if trial is overflown else "FINISHED")
        points = client.get_metric_history(trial.mlflow.run_id, "knn/top1")
        steps = [point.step for point in points]
        # A failure is not delayed until MLflow is back, so its last points may be missing.
        assert steps == [11 * n for n in range(trial.epoch + 1)] or (trial, steps) == (
            overflown,
            [],
        )

    more = running.wait(running.client.add_trials(job.id, 7).job)
    assert (more.state, more.reason, more.extends) == (JobState.SUCCEEDED, None, job.id)
    assert starts(running, more) == [0] * 6 + [1]
    *before, last = running.client.trials(more.id, sort="number").items
    known = [trial.model_dump(exclude={"rank"}) for trial in trials]
    assert [trial.model_dump(exclude={"rank"}) for trial in before] == known
    assert (last.number, last.parameters["optimizer.base_lr"]) == (6, 0.001)
    assert more.mlflow is not None
    run = client.get_run(last.mlflow.run_id)
    assert run.data.tags["mlflow.parentRunId"] == more.mlflow.run_id


def test_a_sweep_survives_its_driver_and_promotes_its_best(running: Running) -> None:
    """Fails without: the ledger (trials would run again), ``_replay``, the trials' checkpoints,
    ``promoted_from`` (two jobs, or none)."""
    base = sweep()["base"] | {"evaluations": [{"protocol": {"name": "knn"}}]}
    request = sweep(
        name="survivor",
        base=base,
        space=rates(0.3, 0.1),
        search={"algorithm": "grid", "seeds": 2},
        scheduler={"name": "fifo"},
        promote=True,
    )
    job = running.client.submit(request)
    running.until(job, lambda _: starts(running, job) == [1, 1])
    running.until(
        job, lambda _: list((running.storage / job.id / "trials/00000-1/checkpoints").glob("*/m*"))
    )
    for name in ("api", "dispatcher"):
        child = running.child(name).process
        assert child is not None
        child.kill()
    for process in running.processes(f'"job_id":"{job.id}"'):
        if process.name().startswith("python"):
            process.kill()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert [attempt.outcome for attempt in ended.attempts] == ["infrastructure", "succeeded"]
    assert starts(running, job) == [1, 2, 1, 1]
    assert re.findall(r"resuming from the checkpoint after step (\d+)", running.client.logs(job.id))
    trials = running.client.trials(job.id, sort="number").items
    assert [(trial.state, trial.epoch) for trial in trials] == [(TrialState.SUCCEEDED, 4)] * 2
    assert ended.mlflow is not None
    client = MlflowClient(running.platform.mlflow_url)
    for trial in trials:
        experiment = client.get_run(trial.mlflow.run_id).info.experiment_id
        runs = [
            run
            for run in client.search_runs(
                [experiment], f"tags.`vicreg.trial_number` = '{trial.number}'"
            )
            if run.data.tags["mlflow.parentRunId"] == ended.mlflow.run_id
        ]
        by_seed = {run.data.params["training.seed"]: run for run in runs}
        values = tuple(by_seed[seed].data.metrics["knn/top1"] for seed in ("0", "1"))
        assert all(run.info.status == "FINISHED" for run in runs)
        assert (len(trial.values), trial.std is None) == (2, False)
        assert trial.objective == pytest.approx(sum(trial.values) / 2)
        assert all(value >= last for value, last in zip(trial.values, values, strict=True))

    best = running.client.trials(job.id).items[0]
    deadline = time.monotonic() + 60
    while not (found := running.client.find(kind="pretrain", experiment="e2e-sweeps").items):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    (promoted,) = found
    assert promoted.promoted_from == job.id
    rate = best.parameters["optimizer.base_lr"]
    assert promoted.spec["optimizer"]["base_lr"] == rate
    assert promoted.spec["training"]["seed"] == 0
    assert running.client.promote(job.id).id == promoted.id
    assert running.wait(promoted).state is JobState.SUCCEEDED
    (evaluation,) = running.client.find(kind="evaluate", experiment="e2e-sweeps").items
    assert "knn/top1" in running.wait(evaluation).summary


def test_a_cancelled_sweep_leaves_no_trial(running: Running) -> None:
    """Fails without: the dispatcher's closing of trials' runs. A killed trial resumes from its
    checkpoint without: Tune's ``max_failures``, the trials' checkpoints."""
    base = small(training={"epochs": 1000, "batch_size": 128})
    del base["name"], base["experiment"]
    job = running.client.submit(
        sweep(name="cancelled", base=base, space=rates(0.3, 0.1), scheduler={"name": "fifo"})
    )
    running.until(
        job, lambda _: list((running.storage / job.id / "trials/00000/checkpoints").glob("*/m*"))
    )
    (trial,) = running.processes("ray::ImplicitFunc")
    trial.kill()
    running.until(job, lambda _: "resuming from the checkpoint" in running.client.logs(job.id))
    running.client.cancel(job.id)
    ended = running.wait(job)
    assert ended.state is JobState.CANCELLED
    assert running.processes(f'"job_id":"{job.id}"') == []
    deadline = time.monotonic() + 30
    while (
        running.processes("ray::ImplicitFunc")
        or running.client.trials(job.id).items[0].state is not TrialState.CANCELLED
    ):
        assert time.monotonic() < deadline
        time.sleep(0.5)
