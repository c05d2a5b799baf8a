"""All SQL of schedules. Every method runs inside the caller's transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vicreg_platform.database import insert_if_absent
from vicreg_platform.errors import NotFound
from vicreg_platform.jobs.tables import Job
from vicreg_platform.schedules.tables import Schedule, Tick


class ScheduleRepository:
    """Schedules and their ticks.

    Args:
        session: an open transaction.
        now: the moment that every row written by it carries.
    """

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now

    def add(self, schedule: Schedule) -> None:
        """Store a new schedule."""
        self._session.add(schedule)
        self._session.flush()

    def get(self, schedule_id: str, *, lock: bool = False) -> Schedule:
        """One schedule; with ``lock``, its row is locked until the transaction ends.

        Raises:
            NotFound: there is no such schedule.
        """
        query = select(Schedule).where(Schedule.id == schedule_id)
        schedule = self._session.scalar(query.with_for_update() if lock else query)
        if schedule is None:
            raise NotFound(f"there is no schedule {schedule_id}")
        return schedule

    def find(self, limit: int, before: str | None) -> list[Schedule]:
        """Up to ``limit`` schedules, newest first, older than the schedule ``before``."""
        query = select(Schedule).order_by(Schedule.id.desc()).limit(limit)
        if before is not None:
            query = query.where(Schedule.id < before)
        return list(self._session.scalars(query))

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule and its ticks; its jobs stay."""
        self._session.execute(delete(Tick).where(Tick.schedule_id == schedule_id))
        self._session.execute(delete(Schedule).where(Schedule.id == schedule_id))

    def due(self, limit: int) -> list[Schedule]:
        """Schedules whose next time has come, longest overdue first."""
        query = (
            select(Schedule)
            .where(Schedule.next_tick <= self._now)
            .order_by(Schedule.next_tick)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def claim(self, schedule_id: str, at: datetime) -> bool:
        """Claim a tick; True in one transaction only, which may still roll back."""
        values = {
            "schedule_id": schedule_id,
            "at": at,
            "outcome": "created",
            "created_at": self._now,
        }
        return insert_if_absent(self._session, Tick, values)

    def tick(self, schedule_id: str, at: datetime) -> Tick:
        """A tick that this transaction has claimed."""
        return self._session.get_one(Tick, (schedule_id, at))

    def ticks(
        self,
        schedule_id: str,
        limit: int,
        before: datetime | None = None,
        outcome: str | None = None,
    ) -> list[tuple[Tick, str | None]]:
        """The latest ticks, newest first, each with the state of its job."""
        query = (
            select(Tick, Job.state)
            .outerjoin(Job, Tick.job_id == Job.id)
            .where(Tick.schedule_id == schedule_id)
            .order_by(Tick.at.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(Tick.at < before)
        if outcome is not None:
            query = query.where(Tick.outcome == outcome)
        return [(tick, state) for tick, state in self._session.execute(query)]
