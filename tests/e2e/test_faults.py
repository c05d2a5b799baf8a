"""What is killed in the middle costs the work since the last checkpoint, and nothing else."""

from __future__ import annotations

import math
import re
import time

from mlflow.tracking import MlflowClient

from tests.e2e.conftest import STEPS_PER_EPOCH, Running, logged_steps
from tests.integration.conftest import wait_until
from vicreg_platform.jobs.states import JobState


def test_a_killed_worker_goes_on_from_the_checkpoint(running: Running) -> None:
    """Fails without: the restart in ``pretrain``, the checkpoints, Outbox's dropping of points."""
    job = running.submit(
        name="worker-kill",
        training={"epochs": 6, "batch_size": 128},
        resources={"workers": 2},
    )
    running.until_epoch(job, 2)
    running.processes("ray::RayTrainWorker")[-1].kill()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert len(ended.attempts) == 1
    log = running.client.logs(job.id)
    resumed = re.findall(r"resuming from the checkpoint after step (\d+)", log)
    assert len(resumed) == 1
    assert int(resumed[0]) >= 2 * STEPS_PER_EPOCH
    assert running.steps(job) == logged_steps(6)


def test_a_killed_driver_is_a_new_attempt_from_the_checkpoint(running: Running) -> None:
    """Fails without: the retry of infrastructure failures, the checkpoints."""
    job = running.submit(name="driver-kill", training={"epochs": 6, "batch_size": 128})
    running.until_epoch(job, 2)
    for process in running.processes(f'"job_id":"{job.id}"'):
        if process.name().startswith("python"):
            process.kill()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert [attempt.outcome for attempt in ended.attempts] == ["infrastructure", "succeeded"]
    assert "resuming from the checkpoint after step" in running.client.logs(job.id)
    assert running.steps(job) == logged_steps(6)


def test_two_workers_evaluate_as_one_does_after_one_of_them_is_killed(running: Running) -> None:
    """Fails without: the gathering by rank, the retry of infrastructure failures."""
    digits = {"source": "digits", "image_size": 24}
    spec = {
        "kind": "evaluate",
        "encoder": {"untrained": {"name": "resnet10", "stem": "cifar"}},
        "protocol": {"name": "knn", "k": 20},
        "data": {"train": digits, "test": digits | {"split": "test"}},
    }
    both = running.client.submit(spec | {"name": "eval-kill", "resources": {"workers": 2}})
    running.until(both, lambda job: any("data_open" in each.moments() for each in job.attempts))
    running.processes("ray::RayTrainWorker")[-1].kill()
    ended = running.wait(both)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert [attempt.outcome for attempt in ended.attempts] == ["infrastructure", "succeeded"]
    assert "lost worker" in str(ended.attempts[0].message)
    assert ended.progress is not None
    assert ended.progress.step == ended.progress.steps
    alone = running.wait(running.client.submit(spec))
    assert alone.summary == ended.summary
    assert alone.summary["knn/top1"] > 0.5
    cancelled = running.client.submit(spec | {"name": "eval-cancel", "resources": {"workers": 2}})
    running.until(cancelled, lambda job: any("data_open" in a.moments() for a in job.attempts))
    running.client.cancel(cancelled.id)
    assert running.wait(cancelled).state is JobState.CANCELLED
    wait_until(lambda: not running.processes("ray::RayTrainWorker"), 30)


def test_a_driver_told_to_end_saves_the_step_it_is_at(running: Running) -> None:
    """Fails without: ``Stop``, which tells the workers; no other checkpoint is made meanwhile."""
    job = running.submit(
        name="driver-term",
        training={"epochs": 4, "batch_size": 128},
        resources={"workers": 2},
        checkpoint={"every_epochs": 4},
    )
    running.until(job, lambda view: view.progress is not None and view.progress.step >= 20)
    for process in running.processes(f'"job_id":"{job.id}"'):
        if process.name().startswith("python"):
            process.terminate()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert [attempt.outcome for attempt in ended.attempts] == ["infrastructure", "succeeded"]
    resumed = re.findall(r"checkpoint after step (\d+)", running.client.logs(job.id))
    assert int(resumed[0]) >= 20
    assert running.steps(job) == logged_steps(4)


def test_training_goes_on_without_mlflow_and_no_point_is_missing(running: Running) -> None:
    """Fails without: Outbox's own thread and its queue."""
    job = running.submit(
        name="mlflow-away",
        training={"epochs": 10, "batch_size": 128},
        watch={"knn_every_epochs": 1},
    )
    running.until_epoch(job, 2)
    mlflow = running.child("mlflow")
    mlflow.not_before = math.inf
    mlflow.end()
    running.until_epoch(job, running.epochs_saved(job) + 2)
    mlflow.not_before = time.monotonic()
    ended = running.wait(job)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    assert len(ended.attempts) == 1
    assert running.steps(job) == logged_steps(10)
    assert running.steps(job, "representation/rankme") == [11 * n for n in range(1, 11)]


def test_a_cancelled_job_leaves_nothing_on_the_cluster(running: Running) -> None:
    job = running.submit(name="cancelled", training={"epochs": 1000, "batch_size": 128})
    running.until_epoch(job, 1)
    assert running.client.cancel(job.id).state is JobState.STOPPING
    ended = running.wait(job)
    assert ended.state is JobState.CANCELLED
    assert running.processes(f'"job_id":"{job.id}"') == []
    assert ended.mlflow is not None

    def status() -> str:
        run = MlflowClient(running.platform.mlflow_url).get_run(ended.mlflow.run_id)  # type: ignore[union-attr]
        return str(run.info.status)

    deadline = time.monotonic() + 30
    while status() != "KILLED":
        assert time.monotonic() < deadline
        time.sleep(0.5)

    retried = running.client.retry(job.id)
    running.until_epoch(retried, 2)
    assert "resuming from the checkpoint after step" in running.client.logs(retried.id)
    running.client.cancel(retried.id)
    assert running.wait(retried).state is JobState.CANCELLED


def test_jobs_cancelled_as_they_start_leave_no_process(running: Running) -> None:
    jobs = []
    for _ in range(4):
        job = running.submit(training={"epochs": 200, "batch_size": 128})
        running.until(job, lambda current: current.state is not JobState.QUEUED)
        running.client.cancel(job.id)
        jobs.append(job)
    for job in jobs:
        assert running.wait(job).state is JobState.CANCELLED
    # Ray stops a submission's process and the children that it has at that moment: there is one
    # process, without a shell between.
    wait_until(lambda: not any(running.processes(f'"{job.id}"') for job in jobs), 30)
    job = running.submit(training={"epochs": 200, "batch_size": 128})
    running.until(job, lambda current: current.state is JobState.RUNNING)
    assert len(running.processes(f'"{job.id}"')) == 1
    running.client.cancel(job.id)
    assert running.wait(job).state is JobState.CANCELLED


def test_a_job_whose_time_is_over_is_stopped_and_can_go_on(running: Running) -> None:
    """Fails without: the dispatcher's look at ``max_runtime``, the way from stopping to failed."""
    job = running.submit(
        name="timeout", training={"epochs": 4000, "batch_size": 128}, max_runtime=40
    )
    ended = running.wait(job)
    assert (ended.state, ended.failure) == (JobState.FAILED, "timeout")
    assert ended.reason == "attempt 1 took longer than 40 s"
    assert running.processes(f'"job_id":"{job.id}"') == []
    again = running.client.retry(job.id)
    running.until(again, lambda _: "resuming from the checkpoint" in running.client.logs(again.id))
    running.client.cancel(again.id)
    assert running.wait(again).state is JobState.CANCELLED
