"""Room is made, jobs pause, shrink and grow; and what they train stays the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.e2e.conftest import STEPS_PER_EPOCH, Running, logged_steps, small
from vicreg_platform.client import Client
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.states import JobState

EPOCHS = 6
TRAINED: dict[str, Any] = {
    "training": {"epochs": EPOCHS, "batch_size": 128},
    # Training amplifies what is rounded in another order, as it does a change of 1e-7 in a weight:
    # small steps keep that below 1e-5.
    "optimizer": {"eta": 0.02, "base_lr": 0.0003},
    # Only what a stop saves is there to resume from.
    "checkpoint": {"every_epochs": EPOCHS},
}
KNN: dict[str, Any] = {
    "kind": "evaluate",
    "experiment": "e2e",
    "encoder": {"untrained": {"name": "resnet10", "stem": "cifar"}},
    "protocol": {"name": "knn"},
    "data": {
        "train": {"source": "digits", "image_size": 8},
        "test": {"source": "digits", "split": "test", "image_size": 8},
    },
}


@pytest.fixture(scope="module")
def undisturbed(running: Running) -> JobSchema:
    """A run of two workers that nobody disturbs."""
    ended = running.wait(running.submit(name="undisturbed", resources={"workers": 2}, **TRAINED))
    assert (ended.state, len(ended.attempts)) == (JobState.SUCCEEDED, 1)
    return ended


@pytest.fixture
def filled(running: Running) -> Iterator[JobSchema]:
    """A job of one CPU, which runs for as long as it is let."""
    job = running.submit(name="filler", training={"epochs": 4000, "batch_size": 128}, priority=1)
    yield running.until(job, lambda view: view.progress is not None)
    running.client.cancel(job.id)
    running.wait(job)


def until_step(running: Running, job: JobSchema, step: int) -> None:
    running.until(job, lambda view: view.progress is not None and view.progress.step >= step)


def weights(running: Running, job: JobSchema) -> dict[str, torch.Tensor]:
    folder = running.storage / job.id / "checkpoints" / f"step-{EPOCHS * STEPS_PER_EPOCH:08d}"
    network: dict[str, torch.Tensor] = torch.load(folder / "shared.pt", weights_only=True)[
        "network"
    ]
    return network


def losses(running: Running, job: JobSchema) -> list[float]:
    points = running.client.metrics(job.id, "train/loss")["train/loss"]
    assert [int(point["step"]) for point in points] == logged_steps(EPOCHS)
    return [point["value"] for point in points]


def resumed_at(running: Running, job: JobSchema, attempt: int) -> int:
    log = running.client.logs(job.id, attempt)
    return int(re.findall(r"resuming from the checkpoint after step (\d+)", log)[-1])


def test_a_preempted_run_trains_to_the_same_weights_bit_for_bit(
    running: Running, undisturbed: JobSchema
) -> None:
    """Fails without: the state saved at SIGTERM, the order of victims, the requeue."""
    job = running.submit(name="victim", resources={"workers": 2}, **TRAINED)
    until_step(running, job, 20)
    urgent = running.submit(name="urgent", priority=5, training={"epochs": 1, "batch_size": 128})
    stopping = running.until(job, lambda view: view.state is not JobState.RUNNING)
    assert stopping.made_room_for == urgent.id
    ended = running.wait(job)
    assert [attempt.outcome for attempt in ended.attempts] == ["preempted", "succeeded"]
    assert running.client.get(urgent.id).state is JobState.SUCCEEDED
    assert resumed_at(running, job, 2) >= 20
    expected, found = weights(running, undisturbed), weights(running, job)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses(running, job) == losses(running, undisturbed)


def test_a_run_paused_twice_goes_on_with_other_numbers_of_workers(
    running: Running, undisturbed: JobSchema
) -> None:
    job = running.submit(name="paused", resources={"workers": 2}, **TRAINED)
    for step, workers in ((20, 1), (40, 2)):
        until_step(running, job, step)
        assert running.client.pause(job.id).state is JobState.STOPPING
        running.until(job, lambda view: view.state is JobState.PAUSED)
        assert running.processes(f'"job_id":"{job.id}"') == []
        running.client.resume(job.id, workers)
    ended = running.wait(job)
    assert [(each.workers, each.outcome) for each in ended.attempts] == [
        (2, "paused"), (1, "paused"), (2, "succeeded"),
    ]  # fmt: skip
    assert losses(running, job) == pytest.approx(losses(running, undisturbed), rel=1e-5)


def test_an_elastic_run_shrinks_for_an_urgent_one_and_grows_again(
    running: Running, undisturbed: JobSchema
) -> None:
    job = running.submit(name="elastic", resources={"workers": {"min": 1, "max": 2}}, **TRAINED)
    until_step(running, job, 20)
    urgent = running.submit(name="urgent", priority=5, training={"epochs": 1, "batch_size": 128})
    ended = running.wait(job)
    assert running.wait(urgent).state is JobState.SUCCEEDED
    assert [(each.workers, each.outcome) for each in ended.attempts][:2] == [
        (2, "resized"), (1, "resized" if len(ended.attempts) == 3 else "succeeded"),
    ]  # fmt: skip
    assert losses(running, job) == pytest.approx(losses(running, undisturbed), rel=1e-5)


def test_a_short_evaluation_passes_a_large_job_that_waits(
    running: Running, filled: JobSchema
) -> None:
    large = running.submit(name="large", resources={"workers": 2}, **TRAINED)
    running.until(large, lambda view: (view.reason or "").startswith("waits for room"))
    short = running.client.submit(KNN | {"max_runtime": 120})
    assert running.wait(short).state is JobState.SUCCEEDED
    waiting = running.client.get(large.id)
    assert waiting.state is JobState.QUEUED
    assert waiting.queue is not None
    assert waiting.queue.position == 1
    assert waiting.queue.start is not None  # when the filler says that it ends
    running.client.cancel(large.id)


def test_a_dispatcher_killed_while_a_victim_stops_loses_nothing(running: Running) -> None:
    job = running.submit(name="victim", resources={"workers": 2}, **TRAINED)
    until_step(running, job, 20)
    running.submit(name="urgent", priority=5, training={"epochs": 1, "batch_size": 128})
    running.until(job, lambda view: view.state is JobState.STOPPING)
    dispatcher = running.child("dispatcher").process
    assert dispatcher is not None
    dispatcher.kill()
    ended = running.wait(job)
    assert [attempt.outcome for attempt in ended.attempts] == ["preempted", "succeeded"]
    assert resumed_at(running, job, 2) >= 20
    assert running.steps(job) == logged_steps(EPOCHS)


def test_a_sweep_is_paused_with_its_trials_at_their_steps(running: Running) -> None:
    base = small(training={"epochs": 6, "batch_size": 128}, checkpoint={"every_epochs": 6})
    for name in ("name", "experiment", "kind"):
        del base[name]
    sweep = running.client.submit(
        {
            "kind": "sweep",
            "experiment": "e2e-sweeps",
            "base": base,
            "space": {"optimizer.base_lr": {"grid": [0.2]}},
            "search": {"algorithm": "grid"},
            "scheduler": {"name": "fifo"},
        }
    )
    saved = running.storage / sweep.id / "trials" / "00000" / "checkpoints"
    running.until(sweep, lambda view: view.progress is not None and view.progress.step >= 2)
    running.client.pause(sweep.id)
    running.until(sweep, lambda view: view.state is JobState.PAUSED)
    steps = [int(folder.name[5:]) for folder in saved.glob("step-*")]
    assert max(steps) >= 2 * STEPS_PER_EPOCH
    running.client.resume(sweep.id)
    assert running.wait(sweep).state is JobState.SUCCEEDED
    (trial,) = running.client.trials(sweep.id).items
    assert (trial.epoch, trial.state) == (6, "succeeded")


def test_owners_get_their_shares_of_forty_short_jobs(running: Running) -> None:
    url = running.platform.api_url
    clients = {
        name: Client(url, key=running.client.create_key(name, "user", weight=weight).key)
        for name, weight in (("ann", 1.0), ("bob", 1.0), ("cat", 2.0))
    }
    jobs = {
        client.submit(KNN | {"name": f"{name}-{number}"}).id: name
        for number in range(24)
        for name, client in clients.items()
    }
    started: list[str] = []

    def forty(_: JobSchema) -> bool:
        started[:] = [
            job.id
            for state in ("starting", "running", "succeeded")
            for job in running.client.find_all(state=state, kind="evaluate", limit=200)
            if job.id in jobs
        ]
        return len(started) >= 40

    running.until(running.client.get(list(jobs)[-1]), forty)
    for job_id in jobs.keys() - set(started):
        running.client.cancel(job_id)
    for client in clients.values():
        client.close()
    shares = {name: [jobs[job] for job in started].count(name) / len(started) for name in clients}
    assert shares == pytest.approx({"ann": 0.25, "bob": 0.25, "cat": 0.5}, abs=0.1)


def test_a_succeeded_run_is_trained_on_along_the_curve_of_the_whole_length(
    running: Running,
) -> None:
    short = running.wait(running.submit(training={"epochs": 2, "batch_size": 128}))
    whole = running.submit(training={"epochs": 4, "batch_size": 128, "warmup_epochs": 1})
    made = running.client.extend(short.id, 4, "anneal")
    extended = running.wait(made.job)
    assert (extended.state, extended.extends) == (JobState.SUCCEEDED, short.id)
    assert running.wait(whole).state is JobState.SUCCEEDED
    assert resumed_at(running, extended, 1) == 2 * STEPS_PER_EPOCH

    def rates(job: JobSchema) -> dict[int, float]:
        points = running.client.metrics(job.id, "train/learning_rate")["train/learning_rate"]
        return {int(p["step"]): p["value"] for p in points if p["step"] > 2 * STEPS_PER_EPOCH}

    assert rates(extended) == pytest.approx(rates(whole))
