"""The lease that lets one dispatcher at a time work on a database."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta

from sqlalchemy import CursorResult, String, exists, or_, select, update
from sqlalchemy.orm import Mapped, mapped_column

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.database import Base, Database, insert_if_absent
from vicreg_platform.ids import new_id

NAME = "dispatcher"
LEASE_SECONDS = 15.0


class LeaseRow(Base):
    """Which process may act as the dispatcher, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]


class Lease:
    """The claim of this process to the lease.

    Args:
        database: on which the dispatchers work.
        now: the clock.
    """

    def __init__(self, database: Database, now: Clock = utc_now) -> None:
        self._database = database
        self._now = now
        self._holder = f"{socket.gethostname()[:24]}-{os.getpid()}-{new_id()}"

    def hold(self) -> bool:
        """Take or renew the lease for ``LEASE_SECONDS``; False while another process holds it."""
        now = self._now()
        values = {"holder": self._holder, "expires_at": now + timedelta(seconds=LEASE_SECONDS)}
        with self._database.write() as session:
            renewed = session.execute(
                update(LeaseRow)
                .where(
                    LeaseRow.name == NAME,
                    or_(LeaseRow.holder == self._holder, LeaseRow.expires_at < now),
                )
                .values(**values)
            )
            assert isinstance(renewed, CursorResult)
            return bool(renewed.rowcount) or insert_if_absent(
                session, LeaseRow, {"name": NAME} | values
            )

    def give_up(self) -> None:
        """Let another process take the lease at once."""
        with self._database.write() as session:
            session.execute(
                update(LeaseRow)
                .where(LeaseRow.name == NAME, LeaseRow.holder == self._holder)
                .values(expires_at=self._now() - timedelta(seconds=1))
            )


def lease_is_held(database: Database, now: Clock = utc_now) -> bool:
    """Whether a dispatcher is running on a database."""
    query = select(exists().where(LeaseRow.name == NAME, LeaseRow.expires_at >= now()))
    with database.read() as session:
        return bool(session.scalar(query))
