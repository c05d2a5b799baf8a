"""A change of a job is seen at once by another process, on both databases."""

from __future__ import annotations

import threading
from contextlib import suppress
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


def test_a_change_is_seen_once_it_is_committed(database: Database, database_url: str) -> None:
    watched = Database(database_url)
    stop, seen = threading.Event(), threading.Event()
    thread = threading.Thread(target=changes.watch, args=(watched, stop, seen.set))
    thread.start()
    try:

        def submitted_and_seen() -> bool:
            add(database)
            return seen.wait(0.5)

        def no_more_is_seen() -> bool:
            seen.clear()
            return not seen.wait(0.5)

        wait_until(submitted_and_seen)  # from some moment on, it watches
        job = add(database)
        assert seen.wait(10)
        # What is read, or undone, is no change.
        wait_until(no_more_is_seen)
        with database.read() as session:
            JobRepository(session, NOW).get(job)
        with suppress(Undo), database.write() as session:
            JobRepository(session, NOW).transition(job, JobState.STARTING, message=None)
            raise Undo
        assert not seen.wait(0.5)
        with database.write() as session:
            JobRepository(session, NOW).transition(job, JobState.STARTING, message=None)
        assert seen.wait(10)
    finally:
        stop.set()
        thread.join(20)
        watched.dispose()
    assert not thread.is_alive()


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
    stop, seen = threading.Event(), threading.Event()
    thread = threading.Thread(target=changes.watch, args=(broken, stop, seen.set))
    thread.start()
    try:

        def submitted_and_seen() -> bool:
            add(database)
            return seen.wait(0.5)

        wait_until(submitted_and_seen)
    finally:
        stop.set()
        thread.join(20)
        broken.dispose()
