"""The rows: jobs, what they wait for, their attempts, their events, and who asked for what."""

from __future__ import annotations

import secrets
import time
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from vicreg_platform.database import Base


def new_id() -> str:
    """An identifier that sorts by its moment: 15 hex digits of it, 5 of chance.

    As in RFC 9562, section 6.2, method 3: the first 12 are milliseconds, 3 are 4096ths of one.
    """
    moment = (time.time_ns() << 12) // 1_000_000
    return f"{moment:015x}{secrets.randbits(20):05x}"


class Job(Base):
    """What a user submitted."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(200))
    experiment: Mapped[str] = mapped_column(String(200))
    priority: Mapped[int] = mapped_column(Integer)
    spec: Mapped[dict[str, Any]]
    """Fully resolved: every default is filled in."""
    request: Mapped[dict[str, Any]]
    """The spec as its user wrote it: a clone starts from this."""
    max_attempts: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the job is in this state, in words for its user."""
    failure: Mapped[str | None] = mapped_column(String(32))
    """The class of the failure, where the state is ``failed``."""
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The ended job that this one tries again, from its last checkpoint."""
    promoted_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The sweep whose best configuration this one trains."""
    owner: Mapped[str | None] = mapped_column(String(200))
    """Whose key it was submitted with."""
    schedule_id: Mapped[str | None] = mapped_column(String(64))
    """The schedule that made it, which may have been deleted since."""
    start_after: Mapped[datetime | None]
    """Waits until this moment."""
    deadline: Mapped[datetime | None]
    """Fails where it has not ended by this moment."""
    max_runtime: Mapped[float | None]
    """Seconds that an attempt may take."""
    not_before: Mapped[datetime | None]
    """After a failed attempt: when the next one may start."""
    run_id: Mapped[str | None] = mapped_column(String(64))
    """The MLflow run, one for all attempts."""
    experiment_id: Mapped[str | None] = mapped_column(String(64))
    progress: Mapped[dict[str, Any] | None]
    summary: Mapped[dict[str, Any]]
    """The latest value of each metric."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    attempts: Mapped[list[Attempt]] = relationship(order_by="Attempt.number", lazy="raise")
    labels: Mapped[list[Label]] = relationship(lazy="raise")
    dependencies: Mapped[list[Dependency]] = relationship(
        foreign_keys="Dependency.job_id", order_by="Dependency.depends_on", lazy="raise"
    )

    __table_args__ = (
        Index("ix_jobs_queue", "state", "priority", "id"),
        Index("ux_jobs_promoted_from", "promoted_from", unique=True),
        Index(
            "ix_jobs_owner",
            "owner",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index("ix_jobs_schedule_id", "schedule_id", "id"),
        Index(
            "ix_jobs_deadline",
            "deadline",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index("ix_jobs_experiment", "experiment", "id"),
    )


class Dependency(Base):
    """One job that another waits for."""

    __tablename__ = "dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    depends_on: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    condition: Mapped[str] = mapped_column(String(16))
    """``succeeded``, or ``finished`` for any end."""

    __table_args__ = (Index("ix_dependencies_depends_on", "depends_on"),)


class Label(Base):
    """One label of a job, in a row of its own so that it can be searched for."""

    __tablename__ = "job_labels"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))

    __table_args__ = (Index("ix_job_labels", "key", "value", "job_id"),)


class Attempt(Base):
    """One execution of a job on Ray."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    submission_id: Mapped[str] = mapped_column(String(80), unique=True)
    created_at: Mapped[datetime]
    """The intent: committed before Ray is called."""
    submitted_at: Mapped[datetime | None]
    """When Ray was known to have it."""
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(32))
    """``succeeded``, ``cancelled``, or the class of the failure."""
    message: Mapped[str | None] = mapped_column(Text)
    archived_at: Mapped[datetime | None]
    """When its log was kept with the MLflow run."""

    __table_args__ = (
        Index(
            "ux_attempts_live",
            "job_id",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(
            "ix_attempts_unarchived",
            "ended_at",
            sqlite_where=text("archived_at IS NULL"),
            postgresql_where=text("archived_at IS NULL"),
        ),
    )


class Event(Base):
    """One change of a job's state; rows are only ever added."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    at: Mapped[datetime]
    before: Mapped[str | None] = mapped_column(String(16))
    after: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int | None] = mapped_column(Integer)
    message: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("ix_events_job", "job_id", "id"),)


class IdempotencyKey(Base):
    """The first answer to a POST that carried this key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Lease(Base):
    """Which process may act as the dispatcher, and until when."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(String(64))
    expires_at: Mapped[datetime]
