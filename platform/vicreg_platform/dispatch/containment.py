"""Keeps what goes wrong with one job from stopping the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vicreg_platform.errors import IllegalTransition, Unavailable
from vicreg_platform.jobs.tables import Job

logger = logging.getLogger(__name__)


@contextmanager
def contained(job: Job) -> Iterator[None]:
    """Log an error that concerns one job, and skip the job until the next round.

    Raises:
        Unavailable: the database, Ray or MLflow is unreachable, which concerns every job.
    """
    try:
        yield
    except Unavailable:
        raise
    except IllegalTransition as error:
        # A user's cancel, or another dispatcher, came first: its decision stands.
        logger.info("overtaken: %s", error)
    except Exception:
        logger.exception("job %s is skipped in this round", job.id)
