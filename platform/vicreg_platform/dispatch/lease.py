"""The lease that lets one dispatcher at a time work on a database.

It is renewed by a heartbeat of its own, however long a round takes, and judged by the database's
clock. Each time it changes hands its token grows, and every transaction of a dispatcher checks
first that the token is still the one that its round began with: a dispatcher that was frozen in
the middle of a round and then continues changes nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Integer, String, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.database import Base, Database, database_time, insert_if_absent
from vicreg_platform.errors import LeaseLost
from vicreg_platform.ids import new_id

NAME = "dispatcher"
LEASE_SECONDS = 15.0
HEARTBEAT_SECONDS = 3.0


class LeaseRow(Base):
    """Which process may act as the dispatcher, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
    """By the database's clock."""
    token: Mapped[int] = mapped_column(Integer, server_default="0")
    """Grows each time the lease is taken, not when it is renewed."""


class Lease:
    """The claim of this process to the lease.

    Args:
        database: on which the dispatchers work.
        now: the clock, for a database without one.
    """

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database = database
        self._now = now
        self._holder = f"{socket.gethostname()[:24]}-{os.getpid()}-{new_id()}"
        self._token = 0
        self._held_until = 0.0
        self._round = threading.local()

    def hold(self) -> bool:
        """Take or renew the lease for ``LEASE_SECONDS``; False while another process holds it.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        asked = time.monotonic()
        with self._database.write() as session:
            now = database_time(session, self._now)
            expires_at = now + timedelta(seconds=LEASE_SECONDS)
            values = {"name": NAME, "holder": self._holder, "expires_at": expires_at, "token": 1}
            token = 1
            if not insert_if_absent(session, LeaseRow, values):
                row = session.scalars(
                    select(LeaseRow).where(LeaseRow.name == NAME).with_for_update()
                ).one()
                current = row.expires_at >= now
                if current and row.holder != self._holder:
                    return False
                token = row.token if current and row.holder == self._holder else row.token + 1
                row.holder, row.expires_at, row.token = self._holder, expires_at, token
        self._token, self._held_until = token, asked + LEASE_SECONDS
        return True

    def held(self) -> bool:
        """Whether the lease is surely this process's, without asking the database."""
        return time.monotonic() < self._held_until

    @contextmanager
    def round(self) -> Iterator[None]:
        """What this thread writes inside is written under the token of now, or not at all."""
        self._round.token = self._token
        try:
            yield
        finally:
            self._round.token = None

    def check(self, session: Session) -> None:
        """Check inside a transaction that no other process has taken the lease.

        None can take it until the transaction ends.

        Raises:
            LeaseLost: another one has, or this one's has expired.
        """
        row = session.scalars(
            select(LeaseRow).where(LeaseRow.name == NAME).with_for_update(read=True)
        ).one_or_none()
        now = database_time(session, self._now)
        mine = row is not None and row.holder == self._holder
        if row is None or not mine or row.token != self._token_of_round() or row.expires_at < now:
            raise LeaseLost("the lease of this dispatcher has ended: its round is dropped")

    def _token_of_round(self) -> int | None:
        return getattr(self._round, "token", None)

    def give_up(self) -> None:
        """Let another process take the lease at once."""
        self._held_until = 0.0
        with self._database.write() as session:
            session.execute(
                update(LeaseRow)
                .where(LeaseRow.name == NAME, LeaseRow.holder == self._holder)
                .values(expires_at=database_time(session, self._now) - timedelta(seconds=1))
            )


def lease_is_held(database: Database, now: Clock = utc_now) -> bool:
    """Whether a dispatcher is running on a database."""
    with database.read() as session:
        expires_at = session.scalar(select(LeaseRow.expires_at).where(LeaseRow.name == NAME))
        return expires_at is not None and expires_at >= database_time(session, now)
