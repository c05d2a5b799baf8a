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
        times = CronSim(self.expression, moment.astimezone(self.local))
        return [local.astimezone(UTC) for local in itertools.islice(times, max(0, count))]

    def until(self, moment: datetime) -> Iterator[datetime]:
        """The times up to and including ``moment``, in UTC, latest first."""
        # The library excludes the moment that it starts from.
        start = (moment + TICK).astimezone(self.local)
        for local in CronSim(self.expression, start, reverse=True):
            if local <= moment:
                yield local.astimezone(UTC)
