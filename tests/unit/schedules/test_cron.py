"""When a cron expression is due, including the days on which clocks change."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest

from vicreg_platform.schedules.cron import Cron


def next_times(expression: str, start: str, count: int, zone: str = "Europe/Paris") -> list[str]:
    moment = datetime.fromisoformat(start)
    return [
        f"{at.astimezone(Cron(expression, zone).local):%d %H:%M%z}"
        for at in Cron(expression, zone).after(moment, count)
    ]


def test_times_are_those_of_the_zone() -> None:
    (at,) = Cron("30 9 * * 1-5", "America/New_York").after(datetime(2026, 7, 3, 14, tzinfo=UTC), 1)
    assert at == datetime(2026, 7, 6, 13, 30, tzinfo=UTC)  # the Monday, in summer time


def test_a_time_in_the_skipped_hour_comes_right_after_it() -> None:
    # 2026-03-29, Paris: 02:00 becomes 03:00.
    assert next_times("30 2 * * *", "2026-03-28T00:00+00:00", 3) == [
        "28 02:30+0100",
        "29 03:00+0200",
        "30 02:30+0200",
    ]
    hours = ["29 01:30+0100", "29 03:30+0200", "29 04:30+0200"]
    assert next_times("30 * * * *", "2026-03-29T00:00+00:00", 3) == hours


def test_a_time_in_the_doubled_hour_comes_once_and_an_hourly_one_in_both() -> None:
    # 2026-10-25, Paris: 03:00 becomes 02:00.
    assert next_times("30 2 * * *", "2026-10-24T12:00+00:00", 2) == [
        "25 02:30+0200",
        "26 02:30+0100",
    ]
    assert next_times("30 * * * *", "2026-10-24T23:45+00:00", 3) == [
        "25 02:30+0200",
        "25 02:30+0100",
        "25 03:30+0100",
    ]


@pytest.mark.parametrize("expression", ["30 2 * * *", "*/15 * * * *", "0 3 1,29 * 0"])
@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25", "2026-11-24"])
def test_looked_at_from_behind_the_times_are_the_same(expression: str, day: str) -> None:
    cron = Cron(expression, "Europe/Paris")
    start = datetime.fromisoformat(f"{day}T00:00+00:00")
    forward = cron.after(start, 8)
    assert cron.latest(forward[0], forward[-1], 8) == forward
    assert cron.latest(forward[2], forward[-2], 3) == forward[-4:-1]
    assert cron.latest(start - timedelta(days=400), forward[-1], 8) == forward


CHANGING = sorted(
    zone
    for zone in available_timezones()
    if "/" in zone
    and datetime(2026, 1, 1, tzinfo=ZoneInfo(zone)).utcoffset()
    != datetime(2026, 7, 1, tzinfo=ZoneInfo(zone)).utcoffset()
)


def clock_changes(zone: str) -> list[datetime]:
    """The moments of 2026 at which the clocks of a zone change, to a quarter of an hour."""
    quarters = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=15 * n) for n in range(35040)]
    local = ZoneInfo(zone)
    offsets = [moment.astimezone(local).utcoffset() for moment in quarters]
    return [
        moment
        for moment, before, after in zip(quarters[1:], offsets, offsets[1:], strict=False)
        if before != after
    ]


@pytest.mark.parametrize("zone", ["Pacific/Chatham", "Australia/Lord_Howe", *CHANGING[::12]])
def test_on_the_day_the_clocks_change_time_goes_forward_alone(zone: str) -> None:
    expressions = ["30 2 * * *", "15 1 * * *", "5 1-3 * * *", "*/2 */2 * * *", "30 0 * * *"]
    for change, expression in itertools.product(clock_changes(zone), expressions):
        cron = Cron(expression, zone)
        for minutes in range(-90, 91, 9):
            moment = change + timedelta(minutes=minutes)
            times = cron.after(moment, 4)
            assert times == sorted(set(times))
            assert times[0] > moment
            assert cron.latest(times[0], times[-1], 9) == times


@pytest.mark.parametrize(
    ("expression", "zone", "message"),
    [
        ("61 * * * *", "UTC", "not a cron expression: bad minute"),
        ("* * * *", "UTC", "five fields"),
        ("* * * * * *", "UTC", "five fields"),
        ("0 0 31 2 *", "UTC", "not a cron expression"),
        ("* * * * *", "Mars/Olympus", "'Mars/Olympus' is not an IANA time zone"),
        ("* * * * *", "../../etc/passwd", "not an IANA time zone"),
        ("* * * * *", "", "not an IANA time zone"),
    ],
)
def test_what_is_no_time_is_refused(expression: str, zone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cron(expression, zone)
