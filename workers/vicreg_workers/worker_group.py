"""A group of worker processes on Ray Train, and what its failures mean."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import psutil
import torch
from ray.train import (
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.timeline import Timeline
from vicreg_workers.device import reserved_device
from vicreg_workers.failures import InfrastructureFailure, JobFailure, OutOfMemory
from vicreg_workers.selfsup.distributed import world_size

Work = Callable[[dict[str, Any]], None]
"""What each worker calls, with what ``run_group`` passes it: see ``begun``."""


class LostWorker(InfrastructureFailure):
    """A worker's process or node is gone."""


def group_of(assignment: Assignment) -> ScalingConfig:
    """A group of worker processes with the resources that the spec asks for."""
    each = assignment.spec.needs().bundle
    return ScalingConfig(
        num_workers=assignment.worker_count,
        use_gpu=bool(each.gpus),
        resources_per_worker={"CPU": each.cpus, "GPU": each.gpus},
    )


def run_group(
    work: Work,
    assignment: Assignment,
    timeline: Timeline,
    scaling: ScalingConfig,
    name: str,
    callbacks: Sequence[UserCallback] = (),
    collectives: TorchConfig | None = None,
) -> None:
    """Have each worker of a group do its work, once.

    Args:
        work: a function of a module.
        assignment: the attempt.
        timeline: what it has reached so far.
        scaling: the group.
        name: of the run in Ray, another one each time.
        callbacks: Ray Train's.
        collectives: how the workers talk to each other; default: Ray Train's.

    Raises:
        JobFailure: a worker failed. ``LostWorker`` if one is gone.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            TorchTrainer(
                work,
                train_loop_config={
                    "assignment": assignment.model_dump_json(),
                    "timeline": timeline.model_dump_json(),
                },
                torch_config=collectives,
                scaling_config=scaling,
                # Checkpoints are our own: what Ray stores is not needed after the run.
                run_config=RunConfig(name=name, storage_path=folder, callbacks=list(callbacks)),
            ).fit()
    except WorkerGroupError as error:
        raise _classified(error) from None
    except TrainingFailedError as error:
        raise InfrastructureFailure(_first_line(error)) from None


def begun(config: dict[str, Any]) -> tuple[Assignment, Timeline, torch.device]:
    """What this worker is told, now that its group is up, and the device that it has reserved."""
    assignment = Assignment.model_validate_json(config["assignment"])
    timeline = Timeline.model_validate_json(config["timeline"])
    if world_size() > 1:
        started = datetime.fromtimestamp(psutil.Process().create_time(), UTC)
        moments = {"workers_up": started, "process_group_up": datetime.now(UTC)}
        timeline = timeline.model_copy(update=moments)
    # Ray would name a GPU of the node even if the job has not reserved it.
    gpus = assignment.spec.needs().bundle.gpus
    device = reserved_device(gpus, get_device() if gpus else None)
    return assignment, timeline, device


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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
