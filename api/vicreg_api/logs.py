"""A job's log: from Ray while the attempt is live, from its MLflow run afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from anyio.to_thread import run_sync

from vicreg_api.services import Services
from vicreg_platform.errors import InvalidRequest, NotFound, Unavailable
from vicreg_platform.jobs.schemas import AttemptSchema, JobSchema

POLL_SECONDS = 1.0
MAX_UNANSWERED = 30
"""How many consecutive polls may fail after the job has ended before the log is given up."""


def read_log(services: Services, job: JobSchema, number: int | None) -> str:
    """The log of an attempt, by default the last one.

    Raises:
        InvalidRequest: the job has no such attempt.
        Unavailable: neither Ray nor MLflow is reachable.
    """
    if number is None:
        return _log_of(services, job, job.attempts[-1]) if job.attempts else ""
    for attempt in job.attempts:
        if attempt.number == number:
            return _log_of(services, job, attempt)
    raise InvalidRequest(f"job {job.id} has no attempt {number}")


async def follow_log(services: Services, job_id: str) -> AsyncIterator[str]:
    """What the job prints, over all its attempts, until it has finished."""
    number, sent, unanswered = 1, 0, 0
    while True:
        job = await run_sync(services.jobs.get, job_id)
        attempt = next((a for a in job.attempts if a.number == number), None)
        if attempt is not None:
            try:
                log = await run_sync(_log_of, services, job, attempt)
                unanswered = 0
            except Unavailable:
                log = ""  # the next poll may do better
                unanswered += 1
            if len(log) > sent:
                yield log[sent:]
                sent = len(log)
            if attempt.ended_at is not None and number < len(job.attempts):
                number, sent = number + 1, 0
                continue
        if job.ended and (unanswered == 0 or unanswered >= MAX_UNANSWERED):
            return
        await anyio.sleep(POLL_SECONDS)


def _log_of(services: Services, job: JobSchema, attempt: AttemptSchema) -> str:
    if attempt.ended_at is not None and job.mlflow is not None:
        try:
            return services.tracking.log(job.mlflow.run_id, attempt.number)
        except (NotFound, Unavailable):
            pass  # not stored yet, or MLflow is unreachable: Ray may still have it
    log = services.cluster.log(attempt.submission_id)
    return log or ""
