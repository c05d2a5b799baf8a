"""All SQL of jobs. Every method runs inside the caller's transaction."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Self

from sqlalchemy import (
    ColumnElement,
    CursorResult,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased, load_only, selectinload

from vicreg_platform.changes import announce
from vicreg_platform.clock import Clock
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.database import Database, insert_if_absent
from vicreg_platform.errors import IllegalTransition, NotFound
from vicreg_platform.jobs.schemas import JobField, JobSort, stored_timeline
from vicreg_platform.jobs.states import ON_CLUSTER, TERMINAL, TRANSITIONS, JobState, StopCause
from vicreg_platform.jobs.tables import (
    Attempt,
    Dependency,
    Event,
    IdempotencyKey,
    Job,
    Label,
)
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.text import printable

_WITH_PARTS = (
    selectinload(Job.attempts),
    selectinload(Job.dependencies),
    selectinload(Job.labels),
)
_BRIEF = (
    Job.id,
    Job.kind,
    Job.name,
    Job.experiment,
    Job.owner,
    Job.state,
    Job.progress,
    Job.progress_at,
    Job.summary,
)
"""What a line about a job needs, without its specs."""
_OTHER = aliased(Job)
"""The job that a ``Dependency`` points to."""
_ENDED = [state.value for state in TERMINAL]
_NOT_STOPPING = [
    state.value
    for state in JobState
    if state not in (*TERMINAL, JobState.STOPPING, JobState.UNKNOWN)
]


def _condition_met() -> ColumnElement[bool]:
    return or_(
        _OTHER.state == JobState.SUCCEEDED.value,
        (Dependency.condition == "finished") & _OTHER.state.in_(_ENDED),
        (Dependency.condition == "epoch")
        & (func.coalesce(_OTHER.kept_epoch, 0) >= Dependency.epoch),
    )


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list; every condition given must hold."""

    states: Sequence[JobState] = ()
    kind: str | None = None
    experiment: str | None = None
    owner: str | None = None
    schedule: str | None = None
    parent: str | None = None
    top_level: bool = False
    """Only those without a parent."""
    text: str | None = None
    """A part of the name, of the experiment or of the id, in any case."""
    created_from: datetime | None = None
    created_before: datetime | None = None
    labels: dict[str, str] = field(default_factory=dict)

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """The filter in SQL."""
        if self.states:
            yield Job.state.in_([state.value for state in self.states])
        for column, value in (
            (Job.kind, self.kind),
            (Job.experiment, self.experiment),
            (Job.owner, self.owner),
            (Job.schedule_id, self.schedule),
            (Job.parent_id, self.parent),
        ):
            if value is not None:
                yield column == value
        if self.top_level:
            yield Job.parent_id.is_(None)
        if self.text is not None:
            searched = Job.name + "\n" + Job.experiment + "\n" + Job.id
            yield searched.icontains(self.text, autoescape=True)
        if self.created_from is not None:
            yield Job.created_at >= self.created_from
        if self.created_before is not None:
            yield Job.created_at < self.created_before
        for key, value in self.labels.items():
            yield exists().where(Label.job_id == Job.id, Label.key == key, Label.value == value)


_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_SORTED_BY: dict[JobSort, ColumnElement[Any]] = {
    JobSort.CREATED: Job.id.expression,  # ids sort by age
    JobSort.FINISHED: func.coalesce(Job.finished_at, _NEVER),
    JobSort.NAME: Job.name.expression,
    JobSort.PRIORITY: Job.priority.expression,
}
_COUNTED: dict[JobField, ColumnElement[Any]] = {
    JobField.STATE: Job.state.expression,
    JobField.KIND: Job.kind.expression,
    JobField.EXPERIMENT: Job.experiment.expression,
    JobField.OWNER: Job.owner.expression,
}


@dataclass(frozen=True, slots=True)
class _DemandRow:
    id: str
    kind: str
    priority: int
    owner: str | None
    state: str
    workers: int | None
    cpus: float | None
    gpus: float | None
    trials_at_once: int | None
    worker_sizes: list[int] | None
    max_runtime: float | None
    progress: dict[str, Any] | None

    @property
    def needs(self) -> Needs | None:
        """What the job occupies while it runs; None if its spec is unreadable."""
        if self.workers is None or self.cpus is None or self.gpus is None:
            return None
        return Needs(Bundle(self.cpus, self.gpus), self.workers, self.trials_at_once or 1)

    def as_in_spec(self, job: Job) -> Self:
        """The row of a job that was stored before 0.3.0: what it needs is in its spec alone."""
        needs = job.needs
        if needs is None:
            return self
        return replace(
            self,
            workers=needs.count,
            cpus=needs.bundle.cpus,
            gpus=needs.bundle.gpus,
            trials_at_once=needs.groups,
        )


@dataclass(frozen=True, slots=True)
class QueuedRow(_DemandRow):
    """What the queue knows of a job that waits for room."""

    stop_cause: str | None
    displaced_by: str | None
    reason: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OccupyingRow(_DemandRow):
    """What the queue knows of a job on the cluster."""

    preemptible: bool | None
    progress_at: datetime | None
    resized_at: datetime | None
    started: datetime
    """When its attempt was submitted."""


_DEMAND = (
    Job.id,
    Job.kind,
    Job.priority,
    Job.owner,
    Job.state,
    Job.workers,
    Job.cpus_per_worker,
    Job.gpus_per_worker,
    Job.trials_at_once,
    Job.worker_sizes,
    Job.max_runtime,
    Job.progress,
)
_QUEUED = (*_DEMAND, Job.stop_cause, Job.displaced_by, Job.reason, Job.created_at)
_OCCUPYING = (
    *_DEMAND,
    Job.preemptible,
    Job.progress_at,
    Job.resized_at,
    func.coalesce(Attempt.submitted_at, Attempt.created_at),
)


class JobRepository:
    """Jobs, attempts and events.

    Args:
        session: an open transaction.
        now: the time that every row written by it carries.
    """

    def __init__(self, session: Session, now: datetime) -> None:
        self._session = session
        self._now = now

    # Jobs

    def add(
        self,
        job: Job,
        labels: dict[str, str],
        message: str,
        dependencies: Mapping[str, str | int] = MappingProxyType({}),
    ) -> None:
        """Store a new job and its first event.

        Args:
            job: the row.
            labels: by key.
            message: of the event.
            dependencies: the condition of each job that it waits for; a number is the epoch of an
                encoder that the other job keeps.
        """
        self._session.add(job)
        self._session.flush()
        self._session.add_all(Label(job_id=job.id, key=k, value=v) for k, v in labels.items())
        self._session.add_all(
            Dependency(
                job_id=job.id,
                depends_on=other,
                condition="epoch" if isinstance(condition, int) else condition,
                epoch=condition if isinstance(condition, int) else None,
            )
            for other, condition in dependencies.items()
        )
        self._record(job.id, None, JobState(job.state), None, message)
        self._session.flush()

    def set_labels(self, job_id: str, labels: dict[str, str]) -> None:
        """Replace a job's labels. Its run has them once ``mark_labelled`` says so."""
        self._update(job_id, relabelled_at=self._now)
        self._session.execute(delete(Label).where(Label.job_id == job_id))
        self._session.add_all(Label(job_id=job_id, key=k, value=v) for k, v in labels.items())
        self._session.flush()
        self._session.expire_all()

    def get(self, job_id: str) -> Job:
        """One job with its attempts.

        Raises:
            NotFound: there is no such job.
        """
        job = self._session.scalar(
            select(Job)
            .where(Job.id == job_id)
            .options(*_WITH_PARTS)
            .execution_options(populate_existing=True)
        )
        if job is None:
            raise NotFound(f"there is no job {job_id}")
        return job

    def change(self, job_id: str, **columns: Any) -> None:
        """Change columns that say what the job's owner wants."""
        self._update(job_id, **columns)

    def set_workers(self, job_id: str, workers: int) -> None:
        """Let the job run with this number of workers, and no other."""
        self._update(job_id, workers=workers, worker_sizes=None)

    def note(self, job_id: str, message: str, finding: str | None = None) -> None:
        """Record something that has happened to a job whose state stays as it is.

        Args:
            job_id: the job.
            message: what, in words for its user.
            finding: the name of the finding, if it is one.
        """
        state = JobState.read(
            self._session.scalars(select(Job.state).where(Job.id == job_id)).one()
        )
        name = None if finding is None else printable(finding)
        self._record(job_id, state, state, None, printable(message), finding=name)

    def lock(self, job_id: str) -> None:
        """Lock the job's row until the transaction ends."""
        self._session.execute(select(Job.id).where(Job.id == job_id).with_for_update())

    def promoted_from(self, sweep_id: str) -> Job | None:
        """The job that trains the best configuration of a sweep."""
        return self._session.scalar(
            select(Job).where(Job.promoted_from == sweep_id).options(*_WITH_PARTS)
        )

    def find(
        self,
        wanted: JobFilter,
        limit: int,
        after: str | None,
        sort: JobSort = JobSort.CREATED,
        descending: bool = True,
    ) -> list[Job]:
        """Up to ``limit`` jobs in an order, those that come after the job ``after``.

        Sorted by age, the cost does not depend on how far back ``after`` is: ids sort by age, and
        the search starts at that id in the index.
        """
        key = _SORTED_BY[sort]
        found = select(Job.id).where(*wanted.conditions()).limit(limit)
        if after is not None and sort is JobSort.CREATED:
            found = found.where(Job.id < after if descending else Job.id > after)
        elif after is not None:
            last = select(key).where(Job.id == after).scalar_subquery()
            later = (key == last) & (Job.id < after if descending else Job.id > after)
            found = found.where(or_(key < last if descending else key > last, later))
        by = (Job.id,) if sort is JobSort.CREATED else (key, Job.id)
        order = [column.desc() for column in by] if descending else by
        # Two steps: sorting whole rows would read the spec of every job.
        ids = list(self._session.scalars(found.order_by(*order)))
        jobs = {
            job.id: job
            for job in self._session.scalars(
                select(Job).where(Job.id.in_(ids)).options(*_WITH_PARTS)
            )
        }
        return [jobs[job_id] for job_id in ids]

    def counts(self, wanted: JobFilter, by: JobField, limit: int) -> list[tuple[str | None, int]]:
        """How many jobs there are for each value of a field, the most frequent values first."""
        column = _COUNTED[by]
        query = (
            select(column, func.count())
            .where(*wanted.conditions())
            .group_by(column)
            .order_by(func.count().desc(), column)
            .limit(limit)
        )
        return [(value, count) for value, count in self._session.execute(query)]

    def count(self, wanted: JobFilter) -> int:
        """How many jobs there are."""
        query = select(func.count()).select_from(Job).where(*wanted.conditions())
        return self._session.scalar(query) or 0

    def of_step_cost(self, key: str, workers: int, state: JobState, limit: int) -> list[Job]:
        """The newest pretrainings whose steps cost the same.

        Args:
            key: a ``step_cost_key``.
            workers: with how many they train.
            state: theirs.
            limit: how many, at most. The cost does not depend on how many there are.
        """
        found = (
            select(Job)
            .where(Job.step_cost == key, Job.workers == workers, Job.state == state.value)
            .order_by(Job.id.desc())
            .limit(limit)
            .options(selectinload(Job.attempts))
        )
        return list(self._session.scalars(found))

    def queued(self) -> list[QueuedRow]:
        """The jobs that may start now, without their specs."""
        query = select(*_QUEUED).where(
            Job.state == JobState.QUEUED.value,
            or_(Job.not_before.is_(None), Job.not_before <= self._now),
        )
        rows = [QueuedRow(*row) for row in self._session.execute(query)]
        return [
            row if row.workers is not None else row.as_in_spec(self.get(row.id)) for row in rows
        ]

    def waited_for(self) -> Bundle:
        """What all queued jobs need to start, together: of a sweep, one training."""
        query = select(
            func.sum(Job.workers * Job.cpus_per_worker), func.sum(Job.workers * Job.gpus_per_worker)
        ).where(Job.state == JobState.QUEUED.value)
        cpus, gpus = self._session.execute(query).one()
        return Bundle(cpus or 0.0, gpus or 0.0)

    def occupying(self) -> list[OccupyingRow]:
        """The jobs with an attempt that has not ended, without their specs."""
        query = (
            select(*_OCCUPYING)
            .join(Attempt, Attempt.job_id == Job.id)
            .where(Attempt.ended_at.is_(None))
        )
        rows = [OccupyingRow(*row) for row in self._session.execute(query)]
        return [
            row if row.workers is not None else row.as_in_spec(self.get(row.id)) for row in rows
        ]

    def ready(self, limit: int) -> list[Job]:
        """Waiting jobs whose start time has come and whose dependencies have all ended as asked."""
        query = (
            select(Job)
            .where(
                Job.state == JobState.WAITING.value,
                or_(Job.start_after.is_(None), Job.start_after <= self._now),
                ~exists().where(
                    Dependency.job_id == Job.id,
                    Dependency.depends_on == _OTHER.id,
                    ~_condition_met(),
                ),
            )
            .order_by(Job.id)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def unsatisfiable(self, limit: int) -> list[tuple[Job, Job]]:
        """Waiting jobs with a dependency that did not end as asked, each with that dependency."""
        query = (
            select(Job, _OTHER)
            .join(Dependency, Dependency.job_id == Job.id)
            .join(_OTHER, Dependency.depends_on == _OTHER.id)
            .where(Job.state == JobState.WAITING.value, _OTHER.state.in_(_ENDED), ~_condition_met())
            .order_by(Job.id)
            .limit(limit)
        )
        return [(job, other) for job, other in self._session.execute(query)]

    def overdue(self, limit: int) -> list[Job]:
        """Unfinished jobs past their deadline that are not stopping already."""
        query = (
            select(Job)
            .where(
                Job.finished_at.is_(None),
                Job.deadline <= self._now,
                # One of a state that a newer version has stored must not be in the others' way.
                Job.state.in_(_NOT_STOPPING),
            )
            .order_by(Job.deadline)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def live_counts(self) -> dict[tuple[str, str], int]:
        """How many jobs are unfinished, by kind and state."""
        query = (
            select(Job.kind, Job.state, func.count())
            .where(Job.finished_at.is_(None))
            .group_by(Job.kind, Job.state)
        )
        return {(kind, state): count for kind, state, count in self._session.execute(query)}

    def oldest_queued(self) -> datetime | None:
        """When the oldest queued job was submitted."""
        query = select(func.min(Job.created_at)).where(Job.state == JobState.QUEUED.value)
        return self._session.scalar(query)

    def unfinished_of_owner(self, owner: str) -> list[Job]:
        """Unfinished jobs of an owner."""
        query = select(Job).where(Job.owner == owner, Job.finished_at.is_(None))
        # Some may have been told to stop in this transaction.
        return list(self._session.scalars(query.execution_options(populate_existing=True)))

    def unfinished_of_schedule(self, schedule_id: str) -> list[Job]:
        """Unfinished jobs of a schedule, and those that follow from them, oldest first."""
        query = (
            select(Job)
            .where(Job.schedule_id == schedule_id, Job.finished_at.is_(None))
            .order_by(Job.id)
        )
        return list(self._session.scalars(query))

    def lock_queue_ends(self, schedule_id: str) -> list[str]:
        """The jobs that a new one of the schedule must wait for, to wait for all unfinished ones.

        They are those that no other waits for already, locked until the transaction ends: a job
        that is cancelled passes on what it waited for to those that are known to wait for it.
        """
        while True:
            ends = self._queue_ends(schedule_id)
            for job_id in ends:
                self.lock(job_id)
            if self._queue_ends(schedule_id) == ends:
                return ends

    def _queue_ends(self, schedule_id: str) -> list[str]:
        waiting = (
            exists()
            .where(
                Dependency.depends_on == Job.id,
                Dependency.condition == "finished",
                Dependency.job_id == _OTHER.id,
                _OTHER.schedule_id == schedule_id,
                _OTHER.finished_at.is_(None),
            )
            .correlate(Job)
        )
        query = (
            select(Job.id)
            .where(Job.schedule_id == schedule_id, Job.finished_at.is_(None), ~waiting)
            .order_by(Job.id)
        )
        return list(self._session.scalars(query))

    def _pass_on_dependencies(self, job_id: str) -> None:
        """Let those that wait for a job in their schedule's queue wait for what it waited for."""
        schedule = select(Job.schedule_id).where(Job.id == job_id).scalar_subquery()
        in_queue = (
            Dependency.condition == "finished",
            _OTHER.schedule_id == schedule,
            _OTHER.finished_at.is_(None),
        )
        behind = self._session.scalars(
            select(Dependency.job_id)
            .join(_OTHER, Dependency.job_id == _OTHER.id)
            .where(Dependency.depends_on == job_id, *in_queue)
        ).all()
        ahead = self._session.scalars(
            select(Dependency.depends_on)
            .join(_OTHER, Dependency.depends_on == _OTHER.id)
            .where(Dependency.job_id == job_id, *in_queue)
        ).all()
        for waiting, other in itertools.product(behind, ahead):
            if self._session.get(Dependency, (waiting, other)) is None:
                self._session.add(
                    Dependency(job_id=waiting, depends_on=other, condition="finished")
                )
        self._session.flush()

    def transition(
        self,
        job_id: str,
        after: JobState,
        *,
        message: str | None,
        attempt: int | None = None,
        only_from: Sequence[JobState] | None = None,
        failure: str | None = None,
        not_before: datetime | None = None,
        stop_cause: StopCause | None = None,
        displaced_by: str | None = None,
    ) -> None:
        """Change a job's state; nothing else does. The change and its event commit together.

        A waiting job that ends passes on its place in its schedule's queue.

        Args:
            job_id: the job.
            after: its new state.
            message: why, in words for the user.
            attempt: the attempt that causes the change; it must be the live one.
            only_from: the states to leave; default: all from which ``after`` is legal.
            failure: the class of the failure, if ``after`` is ``failed``, or ``stopping`` on the
                way there.
            not_before: when a queued job may start.
            stop_cause: why it is stopped, if ``after`` is ``stopping``; why it was, if it is queued
                again.
            displaced_by: the job for which it makes room.

        Raises:
            NotFound: there is no such job.
            IllegalTransition: the job is in another state, or the attempt is no longer live.
        """
        message = None if message is None else printable(message)
        sources = [s for s in (only_from or JobState) if after in TRANSITIONS[s]]
        before = self._session.scalar(
            select(Job.state).where(Job.id == job_id).with_for_update(of=Job)
        )
        if before is None:
            raise NotFound(f"there is no job {job_id}")
        change: dict[str, Any] = {
            "state": after.value,
            "reason": message,
            "failure": failure,
            "not_before": not_before,
            "stop_cause": stop_cause and stop_cause.value,
        }
        if displaced_by is not None or after in (JobState.STARTING, *TERMINAL):
            change["displaced_by"] = displaced_by
        if after is JobState.STOPPING and stop_cause is StopCause.RESIZED:
            change["resized_at"] = self._now
        if after in TERMINAL:
            change["finished_at"] = self._now
        if after is JobState.RUNNING:
            change["started_at"] = func.coalesce(Job.started_at, self._now)
        condition = [Job.id == job_id, Job.state.in_([source.value for source in sources])]
        if attempt is not None:
            condition.append(
                exists().where(
                    Attempt.job_id == job_id, Attempt.number == attempt, Attempt.ended_at.is_(None)
                )
            )
        result = self._session.execute(
            update(Job)
            .where(*condition)
            .values(**change)
            .execution_options(synchronize_session=False)
        )
        assert isinstance(result, CursorResult)
        if result.rowcount == 0:
            raise IllegalTransition(f"job {job_id} is {before}: it cannot become {after.value}")
        self._record(job_id, JobState(before), after, attempt, message)
        if before == JobState.WAITING.value and after in TERMINAL:
            self._pass_on_dependencies(job_id)

    def run_of(self, job_id: str | None) -> str | None:
        """The MLflow run of a job, if there is a job and its run is known."""
        if job_id is None:
            return None
        return self._session.scalar(select(Job.run_id).where(Job.id == job_id))

    def set_run(self, job_id: str, run_id: str, experiment_id: str) -> None:
        """Store the MLflow run of a job."""
        self._update(job_id, run_id=run_id, experiment_id=experiment_id)

    def set_reading(
        self,
        job_id: str,
        progress: dict[str, Any] | None,
        summary: dict[str, float],
        progress_at: datetime | None,
    ) -> None:
        """Store a job's progress, when it was seen, and the latest value of each metric."""
        kept = (progress or {}).get("kept_epoch")
        self._update(
            job_id,
            progress=progress,
            summary=summary,
            progress_at=progress_at,
            **({} if kept is None else {"kept_epoch": kept}),
        )

    def set_reason(self, job_id: str, reason: str) -> None:
        """Store why a queued or starting job does not run yet."""
        states = [JobState.QUEUED.value, JobState.STARTING.value]
        self._session.execute(
            update(Job)
            .where(Job.id == job_id, Job.state.in_(states))
            .values(reason=reason)
            .execution_options(synchronize_session=False)
        )

    def set_reasons(self, reasons: Mapping[str, str]) -> None:
        """Store why queued jobs do not run yet, by their ids."""
        statement = (
            update(Job.__table__)  # type: ignore[arg-type]
            .where(Job.id == bindparam("job"), Job.state == JobState.QUEUED.value)
            .values(reason=bindparam("text"))
        )
        rows = [{"job": job, "text": printable(reason)} for job, reason in reasons.items()]
        self._session.execute(statement, rows)

    # Attempts

    def live_attempts(self) -> list[tuple[Attempt, Job]]:
        """Attempts that have not ended, oldest first, each with its job."""
        query = (
            select(Attempt, Job)
            .join(Job, Attempt.job_id == Job.id)
            .where(Attempt.ended_at.is_(None))
            .order_by(Attempt.created_at)
        )
        return [(attempt, job) for attempt, job in self._session.execute(query)]

    def ended_submissions(self, submissions: Collection[str]) -> list[str]:
        """Those of ``submissions`` whose attempt has ended; others' are not among them."""
        query = select(Attempt.submission_id).where(
            Attempt.submission_id.in_(submissions), Attempt.ended_at.is_not(None)
        )
        return list(self._session.scalars(query))

    def ended_since(self, moment: datetime) -> list[Job]:
        """The jobs of the attempts that have ended since, a job for each attempt."""
        query = (
            select(Job).join(Attempt, Attempt.job_id == Job.id).where(Attempt.ended_at >= moment)
        )
        return list(self._session.scalars(query))

    def unarchived_attempts(self, limit: int) -> list[tuple[Attempt, Job]]:
        """Ended attempts whose log is not stored yet, each with its job."""
        query = (
            select(Attempt, Job)
            .join(Job, Attempt.job_id == Job.id)
            .where(Attempt.ended_at.is_not(None), Attempt.archived_at.is_(None))
            .order_by(Attempt.ended_at)
            .limit(limit)
        )
        return [(attempt, job) for attempt, job in self._session.execute(query)]

    def open_attempt(self, job_id: str, number: int, workers: int | None = None) -> Attempt:
        """Record an attempt before Ray is called.

        Args:
            job_id: the job.
            number: from 1.
            workers: how many it is given; None for a sweep.
        """
        if workers is not None:
            self._update(job_id, workers=workers)
        attempt = Attempt(
            job_id=job_id,
            number=number,
            submission_id=f"{job_id}-{number}",
            queued_at=self._session.scalar(
                select(func.max(Event.at)).where(
                    Event.job_id == job_id,
                    Event.after == JobState.QUEUED.value,
                    Event.before.is_distinct_from(Event.after),
                )
            ),
            created_at=self._now,
            workers=workers,
        )
        self._session.add(attempt)
        self._session.flush()
        return attempt

    def mark_submitted(self, attempt: Attempt) -> None:
        """Record that Ray has accepted the attempt."""
        self._update_attempt(attempt, submitted_at=self._now)

    def end_attempt(self, attempt: Attempt, outcome: str, message: str | None) -> None:
        """Record that the attempt has ended."""
        text = None if message is None else printable(message)
        self._update_attempt(attempt, ended_at=self._now, outcome=outcome, message=text)

    def set_timeline(self, job_id: str, number: int, timeline: Timeline) -> None:
        """Store what an attempt has reached, with an event for each moment reached at last."""
        query = select(Attempt, Job.state).join(Job, Attempt.job_id == Job.id)
        query = query.where(Attempt.job_id == job_id, Attempt.number == number)
        for attempt, state in self._session.execute(query):
            known = stored_timeline(attempt) or Timeline()
            for name, at in timeline.reached().items():
                if name not in known.reached():
                    message = name.replace("_", " ")
                    self._record(job_id, JobState(state), JobState(state), number, message, at)
            self._update_attempt(attempt, timeline=timeline.model_dump(mode="json"))

    def mark_archived(self, attempt: Attempt) -> None:
        """Record that the attempt's log is stored."""
        self._update_attempt(attempt, archived_at=self._now)

    # Runs

    def unclosed(self, limit: int) -> list[Job]:
        """Finished jobs whose MLflow run is still open, longest finished first."""
        query = (
            select(Job)
            .where(
                Job.run_closed_at.is_(None), Job.finished_at.is_not(None), Job.run_id.is_not(None)
            )
            .order_by(Job.finished_at)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    def relabelled(self, limit: int) -> list[Job]:
        """Jobs, with their labels, whose run has not got the labels yet, longest changed first."""
        query = (
            select(Job)
            .where(Job.relabelled_at.is_not(None), Job.run_id.is_not(None))
            .order_by(Job.relabelled_at)
            .limit(limit)
            .options(selectinload(Job.labels))
        )
        return list(self._session.scalars(query))

    def mark_labelled(self, job_id: str, relabelled_at: datetime) -> None:
        """Record that the run has the labels as they were changed at a moment."""
        self._session.execute(
            update(Job)
            .where(Job.id == job_id, Job.relabelled_at == relabelled_at)
            .values(relabelled_at=None)
            .execution_options(synchronize_session=False)
        )

    def runs_of(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The runs of those of the jobs that have one."""
        query = select(Job.id, Job.run_id).where(Job.id.in_(job_ids), Job.run_id.is_not(None))
        return {row.id: row.run_id for row in self._session.execute(query)}

    def mark_closed(self, job_id: str) -> None:
        """Record that the job's run has its final status."""
        self._update(job_id, run_closed_at=self._now)

    # Events

    def last_event(self) -> int:
        """The highest id of an event; 0 if there is none."""
        return self._session.scalar(select(func.max(Event.id))) or 0

    def events_of_all(self, limit: int, after: int) -> list[tuple[Event, Job]]:
        """Up to ``limit`` events of any job, oldest first, that come after event ``after``."""
        query = (
            select(Event, Job)
            .join(Job, Event.job_id == Job.id)
            .where(Event.id > after)
            .order_by(Event.id)
            .limit(limit)
            .options(load_only(*_BRIEF))
        )
        return [(event, job) for event, job in self._session.execute(query)]

    def latest_events(self, limit: int, before: int | None) -> list[tuple[Event, Job]]:
        """Up to ``limit`` events of any job, newest first, older than event ``before``."""
        query = (
            select(Event, Job)
            .join(Job, Event.job_id == Job.id)
            .order_by(Event.id.desc())
            .limit(limit)
            .options(load_only(*_BRIEF))
        )
        if before is not None:
            query = query.where(Event.id < before)
        return [(event, job) for event, job in self._session.execute(query)]

    def brief(self, job_ids: Collection[str]) -> dict[str, Job]:
        """Some jobs by their ids, without their specs."""
        query = select(Job).where(Job.id.in_(job_ids)).options(load_only(*_BRIEF))
        return {job.id: job for job in self._session.scalars(query)}

    def on_cluster(self) -> list[Job]:
        """The jobs that a process works on, without their specs."""
        query = select(Job).where(Job.state.in_([state.value for state in ON_CLUSTER]))
        return list(self._session.scalars(query.options(load_only(*_BRIEF))))

    def events(self, job_id: str, limit: int, after: int) -> list[Event]:
        """Up to ``limit`` events of a job, oldest first, that come after event ``after``."""
        query = (
            select(Event)
            .where(Event.job_id == job_id, Event.id > after)
            .order_by(Event.id)
            .limit(limit)
        )
        return list(self._session.scalars(query))

    # Idempotency

    def answer_for(self, key: str) -> IdempotencyKey | None:
        """The answer to the first request with this key."""
        return self._session.get(IdempotencyKey, key)

    def store_answer(self, key: str, request_digest: str, answer: dict[str, Any]) -> bool:
        """Store the first answer; False if another request with this key committed first."""
        values = {
            "key": key,
            "request_digest": request_digest,
            "answer": answer,
            "created_at": self._now,
        }
        return insert_if_absent(self._session, IdempotencyKey, values)

    def _record(
        self,
        job_id: str,
        before: JobState | None,
        after: JobState,
        attempt: int | None,
        message: str | None,
        at: datetime | None = None,
        finding: str | None = None,
    ) -> None:
        self._session.execute(
            insert(Event).values(
                job_id=job_id,
                at=at or self._now,
                before=before and before.value,
                after=after.value,
                attempt=attempt,
                message=message,
                finding=finding,
            )
        )
        announce(self._session)

    def _update(self, job_id: str, **values: Any) -> None:
        self._session.execute(
            update(Job)
            .where(Job.id == job_id)
            .values(**values)
            .execution_options(synchronize_session=False)
        )

    def _update_attempt(self, attempt: Attempt, **values: Any) -> None:
        self._session.execute(
            update(Attempt)
            .where(Attempt.job_id == attempt.job_id, Attempt.number == attempt.number)
            .values(**values)
            .execution_options(synchronize_session=False)
        )


class Jobs:
    """Transactions on jobs.

    Args:
        database: where they are stored.
        now: the clock.
    """

    def __init__(self, database: Database, now: Clock) -> None:
        self._database = database
        self._now = now

    @contextmanager
    def read(self) -> Iterator[JobRepository]:
        """A transaction that only reads.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        with self._database.read() as session:
            yield JobRepository(session, self._now())

    @contextmanager
    def write(self) -> Iterator[JobRepository]:
        """A transaction that commits as one, or not at all.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        with self._database.write() as session:
            yield JobRepository(session, self._now())
