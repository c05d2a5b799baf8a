"""Runs a pretrain spec with Ray Train."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ray.train import ScalingConfig, UserCallback, report

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.timeline import Timeline
from vicreg_workers.ray_connection import connect
from vicreg_workers.stop_signal import StopSignal
from vicreg_workers.worker_group import LostWorker, begun, group_of, run_group

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
    job = assignment.job_id.replace("/", "-")
    for restart in range(MAX_RESTARTS + 1):
        name = f"{job}-{assignment.attempt}-{restart}"
        try:
            run_group(_train_on_worker, assignment, timeline, scaling, name, callbacks)
            return
        except LostWorker as failure:
            if restart == MAX_RESTARTS:
                raise
            logger.warning("%s: restarting all workers from the last checkpoint", failure)


def _scaling(assignment: Assignment) -> ScalingConfig:
    if assignment.worker_count == 1:
        # Trains in the driver itself: no controller and no worker process to start.
        gpu = bool(assignment.spec.needs().bundle.gpus)
        return ScalingConfig(num_workers=0, use_gpu=gpu)
    return group_of(assignment)


def _train_on_worker(config: dict[str, Any]) -> None:
    # Imported here: the driver of several workers starts sooner without.
    from vicreg_workers.pretrain.worker import train

    assignment, timeline, device = begun(config)
    train(assignment, device, timeline, report if assignment.objective else None)
