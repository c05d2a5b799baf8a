"""The submission of an attempt: its command line, and what its driver reserves."""

from __future__ import annotations

import shlex

from vicreg_platform.cluster import Submission
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.needs import Bundle

NOTHING = Bundle(cpus=0, gpus=0)
MAX_COMMAND_BYTES = 120_000
"""Linux takes 131,072 bytes in one argument, and Ray passes a command line as one."""


def command_bytes(text: str) -> int:
    """How long a text is in a command line, quoted as a shell needs it."""
    return len(shlex.quote(text).encode())


def submission_of(assignment: Assignment, submission_id: str) -> Submission:
    """The driver of an attempt.

    A job of one process trains in its driver, which then holds the resources; the driver of
    several workers, or of a sweep's trials, only watches them, and holds none.

    Args:
        assignment: what it is told.
        submission_id: its name on the cluster.
    """
    spec, needs = assignment.spec, assignment.spec.needs()
    return Submission(
        id=submission_id,
        arguments=("python", "-m", "vicreg_workers.main", assignment.model_dump_json()),
        driver=needs.bundle if spec.runs_in_driver(assignment.worker_count) else NOTHING,
        metadata={"job_id": assignment.job_id, "name": spec.name},
    )
