"""The driver of an attempt: takes an assignment, exits with a code."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FAILURE_LINE
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.specs import EvaluateSpec, SweepSpec
from vicreg_workers.failures import InfrastructureFailure, JobFailure
from vicreg_workers.log_format import configure_logging

logger = logging.getLogger(__name__)


def drive(text: str) -> None:
    """Run an attempt.

    Returns if it succeeds; else exits with the code of the failure's class, after a last line with
    the reason.

    Args:
        text: an ``Assignment`` as JSON.
    """
    assignment = Assignment.model_validate_json(text)
    timeline = Timeline(driver_up=datetime.now(UTC))
    configure_logging()
    logger.info(
        "attempt %d of job %s: %s", assignment.attempt, assignment.job_id, assignment.spec.name
    )
    try:
        _run(assignment, timeline)
    except JobFailure as failure:
        _fail(failure)
    except Exception as error:
        logger.exception("unexpected error")
        _fail(InfrastructureFailure(f"{type(error).__name__}: {error}"))


def _run(assignment: Assignment, timeline: Timeline) -> None:
    # Each kind imports only what it needs: Ray Train alone takes seconds.
    if isinstance(assignment.spec, EvaluateSpec):
        from vicreg_workers.evaluate.driver import evaluate

        evaluate(assignment, timeline)
    elif isinstance(assignment.spec, SweepSpec):
        from vicreg_workers.sweep.driver import sweep

        sweep(assignment, timeline)
    else:
        from vicreg_workers.pretrain.driver import pretrain

        pretrain(assignment, timeline)


def _fail(failure: JobFailure) -> None:
    reason = " ".join(str(failure).split())
    print(f"{FAILURE_LINE}{reason}", flush=True)
    sys.exit(failure.failure_class.exit_code)
