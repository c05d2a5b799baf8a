"""How far events have been read, though some become visible after later ones."""

from __future__ import annotations

from collections.abc import Sequence

LATE_SECONDS = 60.0
"""How long a transaction may take: PostgreSQL numbers events before they are committed."""


class EventCursor:
    """The events that have been seen, though some become visible after later ones.

    Args:
        start: events up to this id are not new.
    """

    def __init__(self, start: int) -> None:
        self.complete = start
        """No event with an id up to this one is still to come."""
        self._seen: dict[int, float] = {}

    def new(self, ids: Sequence[int], now: float) -> list[int]:
        """Those of ``ids`` that are new.

        Args:
            ids: of events, above ``complete``.
            now: a monotonic clock, in seconds.
        """
        fresh = [event for event in ids if event not in self._seen]
        self._seen |= dict.fromkeys(fresh, now)
        while self._seen:
            following = self.complete + 1
            if following not in self._seen:
                # A number that was never committed, or is still to come.
                following = min(self._seen)
                if now - self._seen[following] < LATE_SECONDS:
                    break
            self.complete = following
            del self._seen[following]
        return fresh
