"""The MLflow run of a job: known from an attempt before, or created by this one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.tracking import Tracking


def run_of(assignment: Assignment) -> str | Callable[[], str]:
    """The id of the job's run, or what finds or creates the run.

    Creating it takes MLflow; the work does not wait for that.
    """
    return assignment.run_id or partial(_ensure_run, assignment)


def _ensure_run(assignment: Assignment) -> str:
    spec = assignment.spec
    run_id, _ = Tracking(assignment.tracking_uri).ensure_run(
        assignment.job_id,
        spec.name,
        spec.experiment,
        spec.model_dump(mode="json"),
        assignment.encoder_run_id if spec.parent_job is not None else None,
    )
    return run_id
