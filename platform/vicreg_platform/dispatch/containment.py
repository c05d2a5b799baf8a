"""Keeps what goes wrong with one job from stopping the others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from vicreg_platform.errors import IllegalTransition, LeaseLost, Unavailable

logger = logging.getLogger(__name__)


@contextmanager
def contained(job_id: str) -> Iterator[None]:
    """Log an error that concerns one job, and skip the job until the next round.

    Raises:
        Unavailable: the database or Ray is unreachable, which concerns every job.
        LeaseLost: another dispatcher has taken over.
    """
    try:
        yield
    except (Unavailable, LeaseLost):
        raise
    except IllegalTransition as error:
        # A user's cancel, or another dispatcher, came first: its decision stands.
        logger.info("overtaken: %s", error)
    except Exception:
        logger.exception("job %s is skipped in this round", job_id)
