"""Runs an evaluate spec: in this process, or with Ray Train in several."""

from __future__ import annotations

import os
from typing import Any

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.contract.timeline import Timeline

COLLECTIVE_SECONDS = 2 * 3600
"""How long workers wait for the slowest one, whose part is as large as theirs; after that, the
attempt fails. A lost one ends all at once. Torch's own half an hour would be over if another job
uses a node's disk or processor too."""


def evaluate(assignment: Assignment, timeline: Timeline) -> None:
    """Run an attempt of an evaluation job.

    Args:
        assignment: the attempt.
        timeline: what it has reached so far.

    Raises:
        JobFailure: the evaluation failed.
    """
    if assignment.worker_count > 1:
        _evaluate_in_group(assignment, timeline)
        return
    from vicreg_workers.device import reserved_device
    from vicreg_workers.evaluate import worker

    worker.evaluate(assignment, reserved_device(assignment.spec.needs().bundle.gpus), timeline)


def _evaluate_in_group(assignment: Assignment, timeline: Timeline) -> None:
    # Imported here, and the worker above: each way takes seconds to import, and needs one.
    from ray.train.torch import TorchConfig

    from vicreg_workers.ray_connection import connect
    from vicreg_workers.stop_signal import on_sigterm
    from vicreg_workers.worker_group import group_of, run_group

    connect(assignment.warm_start)
    # There is no state to save, and Ray ends the workers of a driver that has ended.
    on_sigterm(lambda: os._exit(FailureClass.INFRASTRUCTURE.exit_code))
    run_group(
        _evaluate_on_worker,
        assignment,
        timeline,
        group_of(assignment),
        f"{assignment.job_id}-{assignment.attempt}",
        collectives=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
    )


def _evaluate_on_worker(config: dict[str, Any]) -> None:
    from vicreg_workers.evaluate import worker
    from vicreg_workers.worker_group import begun

    assignment, timeline, device = begun(config)
    worker.evaluate(assignment, device, timeline)
