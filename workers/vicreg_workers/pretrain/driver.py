"""Runs a pretrain spec with Ray Train."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
from ray.train import (
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.failures import InfrastructureFailure, JobFailure, OutOfMemory
from vicreg_workers.ray_connection import connect
from vicreg_workers.stop_signal import StopSignal

logger = logging.getLogger(__name__)

MAX_RESTARTS = 3
"""How often the workers are restarted within one attempt after one of them is lost."""


def pretrain(assignment: Assignment, timeline: Timeline) -> None:
    """Run an attempt of a pretraining job.

    A lost worker costs the work since the last checkpoint: all workers restart and resume from
    it. Ray Train would do so after any failure; here, a failure that would only repeat ends the
    attempt.

    Args:
        assignment: the attempt.
        timeline: what it has reached so far.

    Raises:
        JobFailure: the attempt failed.
    """
    # Ray sets its own signal handlers when it is initialised, so ours are set after it.
    connect(assignment.warm_start)
    stop = StopSignal(assignment.storage, assignment.job_id, assignment.attempt)
    stop.on_sigterm()
    try:
        fit(assignment, _scaling(assignment), timeline)
    finally:
        stop.clear()


def fit(
    assignment: Assignment,
    scaling: ScalingConfig,
    timeline: Timeline,
    callbacks: Sequence[UserCallback] = (),
) -> None:
    """Train with a group of workers, restarting all of them when one is lost.

    Raises:
        JobFailure: the training failed.
    """
    for restart in range(MAX_RESTARTS + 1):
        try:
            _fit(assignment, scaling, timeline, callbacks, restart)
            return
        except WorkerGroupError as error:
            failure = _classified(error)
            if not isinstance(failure, LostWorker) or restart == MAX_RESTARTS:
                raise failure from None
            logger.warning("%s: restarting all workers from the last checkpoint", failure)
        except TrainingFailedError as error:
            raise InfrastructureFailure(_first_line(error)) from None


def _fit(
    assignment: Assignment,
    scaling: ScalingConfig,
    timeline: Timeline,
    callbacks: Sequence[UserCallback],
    restart: int,
) -> None:
    name = assignment.job_id.replace("/", "-")
    with tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            _train_on_worker,
            train_loop_config={
                "assignment": assignment.model_dump_json(),
                "timeline": timeline.model_dump_json(),
            },
            scaling_config=scaling,
            # Checkpoints are our own: what Ray stores is not needed after the run.
            run_config=RunConfig(
                name=f"{name}-{assignment.attempt}-{restart}",
                storage_path=folder,
                callbacks=list(callbacks),
            ),
        ).fit()


def _scaling(assignment: Assignment) -> ScalingConfig:
    if assignment.worker_count == 1:
        # Trains in the driver itself: no controller and no worker process to start.
        gpu = bool(_spec(assignment).resources.gpus_per_worker)
        return ScalingConfig(num_workers=0, use_gpu=gpu)
    return scaling_of(assignment)


def scaling_of(assignment: Assignment) -> ScalingConfig:
    """A group of worker processes with the resources that the spec asks for."""
    resources = _spec(assignment).resources
    return ScalingConfig(
        num_workers=assignment.worker_count,
        use_gpu=bool(resources.gpus_per_worker),
        resources_per_worker={"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker},
    )


def _train_on_worker(config: dict[str, Any]) -> None:
    # Imported here: the driver of several workers needs neither, and starts sooner without.
    import ray.train.torch

    from vicreg_workers.device import reserved_device
    from vicreg_workers.pretrain.worker import train
    from vicreg_workers.selfsup.distributed import world_size

    assignment = Assignment.model_validate_json(config["assignment"])
    timeline = Timeline.model_validate_json(config["timeline"])
    if world_size() > 1:
        started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
        moments = {"workers_up": started, "process_group_up": datetime.now(UTC)}
        timeline = timeline.model_copy(update=moments)
    # Ray would name a GPU of the node even if the job has not reserved it.
    gpu = _spec(assignment).resources.gpus_per_worker
    device = reserved_device(gpu, ray.train.torch.get_device() if gpu else None)
    train(assignment, device, timeline, ray.train.report if assignment.objective else None)


class LostWorker(InfrastructureFailure):
    """A worker's process or node is gone."""


def _classified(error: WorkerGroupError) -> JobFailure:
    """The failure of a worker group, from those of its workers.

    When one worker fails, the others fail too, with broken connections. So a failure that a
    worker classified itself comes first, then a loss that Ray noticed.
    """
    failures = error.worker_failures
    for failure in failures.values():
        if isinstance(failure, JobFailure):
            return failure
    if any("OutOfMemory" in type(failure).__name__ for failure in failures.values()):
        return OutOfMemory("a worker was killed because its node ran out of memory")
    lost = [number for number, failure in failures.items() if _noticed_by_ray(failure)]
    if lost:
        return LostWorker(f"lost worker {', '.join(map(str, lost))} of the group")
    number, failure = next(iter(failures.items()))
    return InfrastructureFailure(
        f"worker {number} failed: {type(failure).__name__}: {_first_line(failure)}"
    )


def _noticed_by_ray(failure: Exception) -> bool:
    """Whether the failure comes from Ray, not from the code that the worker ran."""
    return type(failure).__module__.startswith("ray.")


def _spec(assignment: Assignment) -> PretrainSpec:
    assert isinstance(assignment.spec, PretrainSpec)
    return assignment.spec


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
