"""The tables of schedules and of their ticks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from vicreg_platform.database import Base


class Schedule(Base):
    """A cron expression and the job that it submits."""

    __tablename__ = "schedules"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    spec: Mapped[dict[str, Any]]
    """Fully resolved, except for its job, which is as its user wrote it."""
    spec_version: Mapped[int | None] = mapped_column(Integer)
    """The ``specs.stored.VERSION`` that wrote it; null before 0.3.0."""
    owner: Mapped[str | None] = mapped_column(String(200))
    """The name on the key that created it; its jobs belong to them too."""
    paused: Mapped[bool]
    next_tick: Mapped[datetime | None]
    """When the next job is due; null if the schedule is paused or has ended."""
    runs: Mapped[int] = mapped_column(Integer)
    """Jobs submitted, those of ``run-now`` not counted."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (Index("ix_schedules_next_tick", "next_tick"),)


class Tick(Base):
    """A time at which a schedule was due, and its outcome: one row per time."""

    __tablename__ = "ticks"

    schedule_id: Mapped[str] = mapped_column(
        ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True
    )
    at: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    """``created``, ``skipped``, ``missed`` or ``refused``."""
    reason: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
