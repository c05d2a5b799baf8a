from __future__ import annotations

from vicreg_platform.jobs.event_cursor import LATE_SECONDS, EventCursor


def test_an_event_is_new_once() -> None:
    cursor = EventCursor(10)
    assert cursor.new([11, 12], now=0.0) == [11, 12]
    assert cursor.complete == 12
    assert cursor.new([], now=1.0) == []


def test_an_event_that_is_committed_after_a_later_one_is_not_lost() -> None:
    cursor = EventCursor(10)
    assert cursor.new([12, 13], now=0.0) == [12, 13]
    # A browser that comes back now must be sent 11, too.
    assert cursor.complete == 10
    assert cursor.new([11, 12, 13], now=1.0) == [11]
    assert cursor.complete == 13


def test_a_number_that_was_never_committed_is_given_up() -> None:
    cursor = EventCursor(10)
    cursor.new([12], now=0.0)
    cursor.new([12], now=LATE_SECONDS - 1)
    assert cursor.complete == 10
    cursor.new([12], now=LATE_SECONDS + 1)
    assert cursor.complete == 12
