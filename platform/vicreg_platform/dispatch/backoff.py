"""Skips what has just failed; the wait doubles with each consecutive failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from vicreg_platform.clock import Clock
from vicreg_platform.errors import (
    ClusterUnavailable,
    DatabaseUnavailable,
    IllegalTransition,
    LeaseLost,
    PlatformError,
    TrackingUnavailable,
)

logger = logging.getLogger(__name__)

FIRST_SECONDS = 2.0
MAX_SECONDS = 300.0


@dataclass(frozen=True)
class _Failed:
    times: int
    """In a row."""
    until: datetime
    """It is skipped until then."""


class Backoff:
    """The items that are skipped for now.

    Args:
        now: the clock.
        ping: raises TrackingUnavailable if MLflow itself is unreachable, not one run alone.
    """

    def __init__(self, now: Clock, ping: Callable[[], None]) -> None:
        self._now = now
        self._ping = ping
        self._failed: dict[str, _Failed] = {}

    def __len__(self) -> int:
        """How many items have failed and have not succeeded since."""
        return len(self._failed)

    def skips(self, item: str) -> bool:
        """Whether an item is not to be tried yet."""
        return item in self._failed and self._now() < self._failed[item].until

    @contextmanager
    def attempt(self, item: str) -> Iterator[None]:
        """Try an item. An error is logged, and the item is skipped for a while.

        Raises:
            Unavailable: a neighbour is unreachable, which concerns every item.
            LeaseLost: another dispatcher has taken over.
        """
        try:
            yield
        except (DatabaseUnavailable, ClusterUnavailable, LeaseLost):
            raise
        except IllegalTransition as error:
            logger.info("overtaken: %s", error)
        except Exception as error:
            if isinstance(error, TrackingUnavailable):
                self._ping()
            self._note(item, error)
        else:
            self._failed.pop(item, None)

    def keep(self, items: set[str]) -> None:
        """Forget all other items: they are no longer there to be tried."""
        for item in self._failed.keys() - items:
            del self._failed[item]

    def _note(self, item: str, error: Exception) -> None:
        times = self._failed[item].times if item in self._failed else 0
        seconds = min(MAX_SECONDS, FIRST_SECONDS * 2.0**times)
        self._failed[item] = _Failed(times + 1, self._now() + timedelta(seconds=seconds))
        if times == 0:
            stated = isinstance(error, PlatformError)
            logger.warning("%s: %s; retrying", item, error, exc_info=None if stated else error)
