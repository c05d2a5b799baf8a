"""Cron expressions in a time zone.

Daylight saving is handled as in Debian's cron: a time in the skipped hour comes right after it, a
time in the doubled hour comes once; an expression for every hour runs in both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

TICK = timedelta(minutes=1)
"""The finest step of an expression."""
INSTANT = timedelta(microseconds=1)
GROWTH = 8
"""How much further back each look begins."""


@dataclass(frozen=True)
class Cron:
    """When a schedule is due.

    Args:
        expression: minute, hour, day of the month, month, day of the week.
        zone: the IANA time zone of the expression.

    Raises:
        ValueError: the expression or the zone is not valid.
    """

    expression: str
    zone: str

    def __post_init__(self) -> None:
        if len(self.expression.split()) != 5:
            raise ValueError(
                "must have five fields: minute, hour, day of the month, month, day of the week"
            )
        try:
            _ = self.local
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"'{self.zone}' is not an IANA time zone") from error
        try:
            CronSim(self.expression, datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"is not a cron expression: {str(error).lower()}") from error

    @property
    def local(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.zone)

    def after(self, moment: datetime, count: int) -> list[datetime]:
        """The first ``count`` times after ``moment``, in UTC; fewer if there are no more."""
        return list(itertools.islice(self._after(moment), max(0, count)))

    def latest(self, first: datetime, last: datetime, count: int) -> list[datetime]:
        """The latest ``count`` times from ``first`` to ``last``, both included, in UTC, in order.

        Looks only forward, from further and further back: the library's search backwards does not
        end in zones whose clocks change within an hour, such as Pacific/Chatham.
        """
        span = TICK * count
        while True:
            start = max(first, last - span)
            # The library excludes the moment that it starts from.
            times = list(itertools.takewhile(lambda at: at <= last, self._after(start - INSTANT)))
            if len(times) >= count or start == first:
                return times[-count:]
            span *= GROWTH

    def _after(self, moment: datetime) -> Iterator[datetime]:
        """The times after ``moment``, each later than the one before."""
        before = moment
        for local in CronSim(self.expression, moment.astimezone(self.local)):
            # In a doubled hour the library may continue with the first of two equal wall times.
            at = local.astimezone(UTC)
            if at > before:
                yield at
                before = at
