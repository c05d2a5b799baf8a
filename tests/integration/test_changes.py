"""A change of a job is seen at once by another process, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest

from tests.integration.conftest import wait_until
from tests.integration.test_repository import add
from vicreg_platform import changes
from vicreg_platform.database import Database
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.states import JobState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Undo(Exception):
    """Undoes a transaction."""


class Watch:
    """Notes whether a change of the jobs has been seen."""

    def __init__(self) -> None:
        self.seen = threading.Event()

    def sees(self, seconds: float = 10.0) -> bool:
        """Wait for a change that has not been waited for."""
        seen = self.seen.wait(seconds)
        self.seen.clear()
        return seen

    def quiet(self) -> bool:
        return not self.sees(0.5)


@contextmanager
def watching(database: Database) -> Iterator[Watch]:
    """A thread that watches a database, which is closed at the end."""
    watch, stop = Watch(), threading.Event()
    thread = threading.Thread(target=changes.watch, args=(database, stop, watch.seen.set))
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(20)
        database.dispose()
    assert not thread.is_alive()


def test_a_change_is_seen_once_it_is_committed(database: Database, database_url: str) -> None:
    with watching(Database(database_url)) as watch:
        assert watch.sees()  # it has begun to watch
        wait_until(watch.quiet)
        job = add(database)
        assert watch.sees()
        # What is read, or undone, is no change.
        wait_until(watch.quiet)
        with database.read() as session:
            JobRepository(session, NOW).get(job)
        with suppress(Undo), database.write() as session:
            JobRepository(session, NOW).transition(job, JobState.STARTING, message=None)
            raise Undo
        assert watch.quiet()
        with database.write() as session:
            JobRepository(session, NOW).transition(job, JobState.STARTING, message=None)
        assert watch.sees()


def test_it_watches_again_after_a_failure(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RETRY_SECONDS", 0.1)
    broken = Database(database_url)
    connect = broken.engine.raw_connection
    failures = iter([OSError("no route"), OSError("no route")])

    def flaky() -> object:
        for failure in failures:
            raise failure
        return connect()

    monkeypatch.setattr(broken.engine, "raw_connection", flaky)
    with watching(broken) as watch:
        assert watch.sees()
        assert next(failures, None) is None
        wait_until(watch.quiet)
        add(database)
        assert watch.sees()
