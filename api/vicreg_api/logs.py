"""A job's log: from Ray while the attempt is live, from its MLflow run afterwards.

Logs are streamed in pieces, by threads of their own: however many are read, and however slowly Ray
or MLflow gives them, other requests find the API as it is.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import AsyncIterator, Iterator

import anyio
from anyio.to_thread import run_sync

from vicreg_api.services import Services
from vicreg_api.threads import LOGS, in_thread
from vicreg_platform.errors import InvalidRequest, NotFound, Unavailable
from vicreg_platform.jobs.schemas import AttemptSchema, JobSchema

POLL_SECONDS = 1.0
MAX_UNANSWERED = 30
"""How many consecutive polls may fail after the job has ended before the log is given up."""


async def read_log(services: Services, job: JobSchema, number: int | None) -> AsyncIterator[str]:
    """The log of an attempt, by default the last one, in pieces.

    Raises:
        InvalidRequest: the job has no such attempt.
        LogUnavailable: Ray cannot give it, and it is not stored.
        Unavailable: neither Ray nor MLflow is reachable.
    """
    wanted = [each for each in job.attempts if number in (None, each.number)]
    if wanted:
        pieces = await in_thread(LOGS, lambda: _open(services, job, wanted[-1]))
    elif number is None:
        pieces = iter(())
    else:
        raise InvalidRequest(f"job {job.id} has no attempt {number}")
    return _decoded(pieces_of(pieces))


async def follow_log(services: Services, job_id: str, first: int) -> AsyncIterator[str]:
    """What the job prints from attempt ``first`` on, until it has finished."""
    number, sent, unanswered = first, 0, 0
    decoder = _decoder()
    job: JobSchema | None = None
    attempt: AttemptSchema | None = None
    while True:
        started = time.monotonic()
        try:
            job = await run_sync(services.jobs.get, job_id)
            attempt = next((a for a in job.attempts if a.number == number), None)
            if attempt is not None:
                async for piece in _from(services, job, attempt, sent):
                    sent += len(piece)
                    yield decoder.decode(piece)
            unanswered = 0
        except (Unavailable, NotFound):
            unanswered += 1  # the next poll may do better
        complete = attempt is not None and attempt.ended_at is not None and unanswered == 0
        if complete and job is not None and number < len(job.attempts):
            number, sent, decoder = number + 1, 0, _decoder()
            continue
        if job is not None and job.ended and (unanswered == 0 or unanswered >= MAX_UNANSWERED):
            return
        # A long log takes a while to read from its start: that is not all that Ray has to do.
        await anyio.sleep(max(POLL_SECONDS, time.monotonic() - started))


async def _from(
    services: Services, job: JobSchema, attempt: AttemptSchema, start: int
) -> AsyncIterator[bytes]:
    """An attempt's log from byte ``start``, in pieces."""
    async for piece in pieces_of(await in_thread(LOGS, lambda: _open(services, job, attempt))):
        if start < len(piece):
            yield piece[start:]
        start = max(0, start - len(piece))


def _open(services: Services, job: JobSchema, attempt: AttemptSchema) -> Iterator[bytes]:
    if attempt.ended_at is not None and job.mlflow is not None:
        try:
            return services.tracking.log(job.mlflow.run_id, attempt.number)
        except (NotFound, Unavailable):
            pass  # not stored yet, or MLflow is unreachable: Ray may still have it
    return services.cluster.log(attempt.submission_id) or iter(())


async def pieces_of(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Pieces that a neighbour gives, each read in a thread."""
    while (piece := await in_thread(LOGS, lambda: next(pieces, None))) is not None:
        yield piece


async def _decoded(pieces: AsyncIterator[bytes]) -> AsyncIterator[str]:
    decoder = _decoder()
    async for piece in pieces:
        yield decoder.decode(piece)


def _decoder() -> codecs.IncrementalDecoder:
    """A job may print any bytes, such as the name of a file."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
