"""The clock that is passed to everything that needs the time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current moment, with its time zone."""


def utc_now() -> datetime:
    """The current moment in UTC."""
    return datetime.now(UTC)
