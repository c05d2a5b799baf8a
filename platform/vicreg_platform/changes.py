"""Notifies a process when jobs in the database change, so that it need not poll.

PostgreSQL uses LISTEN/NOTIFY; for SQLite, a counter of commits is read every 50 ms.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from vicreg_platform.database import Database

logger = logging.getLogger(__name__)

CHANNEL = "vicreg_jobs"
LOOK_SECONDS = 0.05
LISTEN_SECONDS = 1.0
RETRY_SECONDS = 5.0


def announce(session: Session) -> None:
    """Tell those who watch, once the transaction is committed."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"NOTIFY {CHANNEL}"))


def watch(database: Database, stop: threading.Event, changed: Callable[[], object]) -> None:
    """Call ``changed`` when it begins to watch, and after each change of the jobs.

    Returns when ``stop`` is set. Nothing may depend on it: while the database is unreachable, it
    misses what changes.
    """
    watch_once = _listen if database.engine.dialect.name == "postgresql" else _look
    while not stop.is_set():
        try:
            connection = database.engine.raw_connection()
            connection.detach()  # none of those that transactions share
            with closing(connection):
                watch_once(connection.dbapi_connection, stop, changed)
        except Exception as error:  # whatever the database's driver raises
            logger.warning("changes of the database are not seen at once: %s", error)
            stop.wait(RETRY_SECONDS)


def _listen(connection: Any, stop: threading.Event, changed: Callable[[], object]) -> None:
    connection.rollback()
    connection.autocommit = True
    connection.execute(f"LISTEN {CHANNEL}")
    changed()
    while not stop.is_set():
        for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
            changed()


def _look(connection: Any, stop: threading.Event, changed: Callable[[], object]) -> None:
    known = None
    while not stop.wait(LOOK_SECONDS):
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version != known:
            changed()
        known = version
