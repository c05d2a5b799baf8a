"""The dispatcher's lease, on both databases."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import update

from vicreg_platform.clock import utc_now
from vicreg_platform.database import Database
from vicreg_platform.dispatch.lease import LEASE_SECONDS, Lease, LeaseRow, lease_is_held
from vicreg_platform.errors import DatabaseUnavailable, LeaseLost


def expire(database: Database) -> None:
    """As if ``LEASE_SECONDS`` had passed."""
    with database.write() as session:
        session.execute(update(LeaseRow).values(expires_at=utc_now() - timedelta(seconds=1)))


def test_a_lease_has_one_holder_until_it_ends(database: Database) -> None:
    first, second = Lease(database), Lease(database)
    assert first.hold()
    assert not second.hold()
    assert first.hold()
    assert not second.hold()
    assert lease_is_held(database)
    expire(database)
    assert not lease_is_held(database)
    assert second.hold()
    assert not first.hold()
    second.give_up()
    assert not second.held()
    assert first.hold()


def test_of_many_who_want_a_lease_one_gets_it(database: Database) -> None:
    won: list[int] = []
    barrier = threading.Barrier(6)

    def contend(number: int) -> None:
        barrier.wait()
        if Lease(database).hold():
            won.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_a_clock_that_is_wrong_takes_no_lease_from_another(database: Database) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no clock of its own, and one machine alone")
    assert Lease(database).hold()
    assert not Lease(database, lambda: utc_now() + timedelta(hours=1)).hold()
    assert lease_is_held(database, lambda: utc_now() + timedelta(hours=1))


def test_what_a_lost_lease_writes_is_undone(database: Database) -> None:
    first, second = Lease(database), Lease(database)
    fenced = database.fenced(first.check)
    assert first.hold()
    with first.round():
        with fenced.write():
            pass
        expire(database)
        assert second.hold()
        with pytest.raises(LeaseLost), fenced.write():
            pass
        # Its heartbeat gets the lease again; the round was decided before the other's rounds.
        expire(database)
        assert first.hold()
        with pytest.raises(LeaseLost), fenced.write():
            pass
    with first.round(), fenced.write():
        pass
    with pytest.raises(LeaseLost), fenced.write():
        pass  # outside a round


def test_nobody_takes_the_lease_between_the_check_and_the_commit(database: Database) -> None:
    first, second = Lease(database), Lease(database)
    fenced = database.fenced(first.check)
    assert first.hold()
    expire_soon = utc_now() + timedelta(seconds=0.5)
    with database.write() as session:
        session.execute(update(LeaseRow).values(expires_at=expire_soon))
    taken = threading.Event()

    def take() -> None:
        while not taken.is_set():
            try:
                if second.hold():
                    taken.set()
            except DatabaseUnavailable:
                pass  # it waited for the row longer than the database allows

    with first.round(), fenced.write():
        thread = threading.Thread(target=take)
        thread.start()
        while utc_now() < expire_soon + timedelta(seconds=0.5):
            time.sleep(0.05)
        assert not taken.is_set()
    thread.join(LEASE_SECONDS)
    assert taken.is_set()
