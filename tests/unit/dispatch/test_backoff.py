"""What fails again and again is tried less and less."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from vicreg_platform.dispatch.backoff import Backoff
from vicreg_platform.errors import LeaseLost, NotFound, TrackingUnavailable


class Clock:
    moment = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


def reachable() -> None:
    """MLflow is."""


def unreachable() -> None:
    raise TrackingUnavailable("no answer")


def test_the_wait_doubles_up_to_five_minutes_and_ends_with_a_success() -> None:
    clock = Clock()
    backoff = Backoff(clock, reachable)
    tried = []
    for _ in range(1700):
        clock.moment += timedelta(seconds=1)
        if not backoff.skips("a"):
            tried.append(clock.moment)
            with backoff.attempt("a"):
                raise NotFound("no such run")
        with backoff.attempt("b"):
            pass
    waits = [(b - a).total_seconds() for a, b in pairwise(tried)]
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert len(backoff) == 1
    with backoff.attempt("a"):
        pass
    assert not backoff.skips("a")
    assert len(backoff) == 0


def test_an_unreachable_mlflow_is_no_fault_of_the_item() -> None:
    alone, all_of_them = Backoff(Clock(), reachable), Backoff(Clock(), unreachable)
    with alone.attempt("a"):
        raise TrackingUnavailable("status 500: the bucket is gone")
    assert alone.skips("a")
    with pytest.raises(TrackingUnavailable), all_of_them.attempt("a"):
        raise TrackingUnavailable("no answer")
    assert not all_of_them.skips("a")


def test_the_end_of_the_lease_is_passed_on() -> None:
    backoff = Backoff(Clock(), reachable)
    with pytest.raises(LeaseLost), backoff.attempt("a"):
        raise LeaseLost("overtaken")
    assert not backoff.skips("a")


def test_what_is_no_longer_there_is_forgotten() -> None:
    backoff = Backoff(Clock(), reachable)
    for item in ("a", "b"):
        with backoff.attempt(item):
            raise NotFound("no such run")
    backoff.keep({"b"})
    assert len(backoff) == 1
