from __future__ import annotations

from datetime import UTC, datetime

from vicreg_api.feed import LATE_SECONDS, EventCursor
from vicreg_platform.jobs.schemas import JobEvent
from vicreg_platform.jobs.states import JobState

NOW = datetime(2026, 11, 27, tzinfo=UTC)


def event(number: int) -> JobEvent:
    return JobEvent(
        id=number, at=NOW, before=None, after=JobState.QUEUED, attempt=None, message=None,
        job_id="a", kind="pretrain", name="a", experiment="a", owner=None,
    )  # fmt: skip


def ids(events: list[JobEvent]) -> list[int]:
    return [each.id for each in events]


def test_an_event_is_new_once() -> None:
    cursor = EventCursor(10)
    assert ids(cursor.new([event(11), event(12)], now=0.0)) == [11, 12]
    assert cursor.complete == 12
    assert cursor.new([], now=1.0) == []


def test_an_event_that_is_committed_after_a_later_one_is_not_lost() -> None:
    cursor = EventCursor(10)
    assert ids(cursor.new([event(12), event(13)], now=0.0)) == [12, 13]
    # A browser that comes back now must be sent 11, too.
    assert cursor.complete == 10
    assert ids(cursor.new([event(11), event(12), event(13)], now=1.0)) == [11]
    assert cursor.complete == 13


def test_a_number_that_was_never_committed_is_given_up() -> None:
    cursor = EventCursor(10)
    cursor.new([event(12)], now=0.0)
    cursor.new([event(12)], now=LATE_SECONDS - 1)
    assert cursor.complete == 10
    cursor.new([event(12)], now=LATE_SECONDS + 1)
    assert cursor.complete == 12
