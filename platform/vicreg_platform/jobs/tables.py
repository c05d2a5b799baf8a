"""The tables of jobs, their dependencies, attempts and events, and of idempotency keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from vicreg_platform.database import Base, partial_index
from vicreg_platform.jobs.states import JobState, StopCause
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.stored import Unreadable, read_spec


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
    spec_version: Mapped[int | None] = mapped_column(Integer)
    """The ``specs.stored.VERSION`` that wrote it; null before 0.3.0."""
    request: Mapped[dict[str, Any]]
    """The spec as its user wrote it: a clone starts from this."""
    workers: Mapped[int | None] = mapped_column(Integer)
    """Bundles that the job needs at once; this and the next three are null before 0.3.0. Of an
    elastic job: those of its last attempt, the most that it takes before the first."""
    cpus_per_worker: Mapped[float | None]
    gpus_per_worker: Mapped[float | None]
    trials_at_once: Mapped[int | None] = mapped_column(Integer)
    """Trials that a sweep may run at once; 1 for other jobs."""
    worker_sizes: Mapped[list[int] | None] = mapped_column(JSON)
    """The numbers of workers that an elastic job can run with, ascending; null for others."""
    resized_at: Mapped[datetime | None]
    """When the platform last told an elastic job to change its number of workers."""
    preemptible: Mapped[bool | None]
    """Null before 0.3.0: it is not."""
    displaced_by: Mapped[str | None] = mapped_column(String(64))
    """The job for which this one has made room; null once it runs again."""
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    """How often its owner has changed it, and 1."""
    max_attempts: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    """Why the job is in this state, in words for its user."""
    failure: Mapped[str | None] = mapped_column(String(32))
    """The class of the failure, if the state is ``failed`` or ``stopping`` on its way there."""
    stop_cause: Mapped[str | None] = mapped_column(String(16))
    """A ``StopCause``, if the state is ``stopping``; null there before 0.3.0."""
    retry_of: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The job that this one retries, from its last checkpoint."""
    extends: Mapped[str | None] = mapped_column(String(64))
    """The pretraining that this one continues."""
    promoted_from: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"))
    """The sweep whose best configuration this one trains."""
    parent_id: Mapped[str | None] = mapped_column(String(64))
    """The job that this one follows from: the pretraining that an evaluation measures, the sweep
    whose best configuration this one trains. Null if there is none, or before 0.3.0."""
    owner: Mapped[str | None] = mapped_column(String(200))
    """The name on the key that submitted it."""
    schedule_id: Mapped[str | None] = mapped_column(String(64))
    """The schedule that submitted it, which may have been deleted since."""
    start_after: Mapped[datetime | None]
    """It waits until this moment."""
    deadline: Mapped[datetime | None]
    """It fails unless it has finished by this moment."""
    max_runtime: Mapped[float | None]
    """Seconds that an attempt may take."""
    not_before: Mapped[datetime | None]
    """After a failed attempt: when the next one may start."""
    run_id: Mapped[str | None] = mapped_column(String(64))
    """The MLflow run, one for all attempts."""
    experiment_id: Mapped[str | None] = mapped_column(String(64))
    relabelled_at: Mapped[datetime | None]
    """When its labels were changed; null if the run has them."""
    run_closed_at: Mapped[datetime | None]
    """When the run of the finished job was given its final status."""
    progress: Mapped[dict[str, Any] | None]
    progress_at: Mapped[datetime | None]
    """When the progress was last seen to change."""
    kept_epoch: Mapped[int | None]
    """The last epoch after which the training has kept its encoder to be evaluated."""
    summary: Mapped[dict[str, Any]]
    """The latest value of each metric."""
    step_cost: Mapped[str | None] = mapped_column(String(64))
    """Of a pretraining: the ``step_cost_key`` of its spec; null before 0.3.0."""
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
        partial_index("ix_jobs_owner", "owner", "finished_at IS NULL"),
        Index("ix_jobs_schedule_id", "schedule_id", "id"),
        partial_index("ix_jobs_deadline", "deadline", "finished_at IS NULL"),
        Index("ix_jobs_experiment", "experiment", "id"),
        Index("ix_jobs_parent", "parent_id", "id"),
        Index("ix_jobs_parent_name", "parent_id", "name", "id"),
        Index("ix_jobs_parent_state", "parent_id", "state"),
        Index("ix_jobs_step_cost", "step_cost", "workers", "state", "id"),
        # All that a list filters and sorts by: a job's spec is long, and is not read for it.
        Index(
            "ix_jobs_listed",
            "kind",
            "state",
            "experiment",
            "owner",
            "parent_id",
            "priority",
            "created_at",
            "finished_at",
            "id",
            "name",
        ),
        partial_index(
            "ix_jobs_relabelled",
            "relabelled_at",
            "relabelled_at IS NOT NULL AND run_id IS NOT NULL",
        ),
        partial_index(
            "ix_jobs_unclosed", "finished_at", "run_closed_at IS NULL AND run_id IS NOT NULL"
        ),
    )

    @property
    def stopping_for(self) -> StopCause | None:
        """What the job is stopped for; None if it is not stopping."""
        if self.state != JobState.STOPPING.value:
            return None
        if self.stop_cause in list(StopCause):
            return StopCause(self.stop_cause)
        return StopCause.TIMEOUT if self.failure else StopCause.CANCELLED  # before 0.3.0

    @property
    def needs(self) -> Needs | None:
        """What the job occupies while it runs; None if its spec is unreadable."""
        if self.workers is None or self.cpus_per_worker is None or self.gpus_per_worker is None:
            spec = read_spec(self.spec, self.spec_version)
            return None if isinstance(spec, Unreadable) else spec.needs()
        bundle = Bundle(self.cpus_per_worker, self.gpus_per_worker)
        return Needs(bundle, self.workers, self.trials_at_once or 1)


class Dependency(Base):
    """One job that another waits for."""

    __tablename__ = "dependencies"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    depends_on: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    condition: Mapped[str] = mapped_column(String(16))
    """``succeeded``, ``finished`` for any end, or ``epoch`` for an encoder kept while training."""
    epoch: Mapped[int | None] = mapped_column(default=None)
    """With ``epoch``: the one after which it is kept."""

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
    queued_at: Mapped[datetime | None]
    """When its job was queued for it; null before 0.3.0."""
    created_at: Mapped[datetime]
    """Committed before Ray is called."""
    submitted_at: Mapped[datetime | None]
    """When Ray was known to have accepted it."""
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(32))
    """``succeeded``, a ``StopCause``, or the class of the failure."""
    workers: Mapped[int | None] = mapped_column(Integer)
    """How many it was given; null before 0.3.0."""
    message: Mapped[str | None] = mapped_column(Text)
    archived_at: Mapped[datetime | None]
    """When its log was stored with the MLflow run."""
    timeline: Mapped[dict[str, Any] | None]
    """The moments that its processes have reached: a ``Timeline``."""

    __table_args__ = (
        partial_index("ux_attempts_live", "job_id", "ended_at IS NULL", unique=True),
        partial_index("ix_attempts_unarchived", "ended_at", "archived_at IS NULL"),
        Index("ix_attempts_ended_at", "ended_at"),
    )


class Event(Base):
    """One change of a job's state, a moment that its attempt has reached, or a finding.

    The state before such a moment is the one after it. Rows are only ever added.
    """

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
    finding: Mapped[str | None] = mapped_column(Text)
    """The name of what is newly wrong with a training; the message is its text."""

    __table_args__ = (Index("ix_events_job", "job_id", "id"),)


class IdempotencyKey(Base):
    """The first answer to a POST that carried this key."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_digest: Mapped[str] = mapped_column(String(64))
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
