"""The use cases of schedules. One use case is one transaction."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.database import Database
from vicreg_platform.errors import (
    Conflict,
    Forbidden,
    InvalidSpec,
    LeaseLost,
    Unavailable,
)
from vicreg_platform.ids import new_id
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.service import JobService, Origin
from vicreg_platform.pages import Page, page_of
from vicreg_platform.schedules.repository import ScheduleRepository
from vicreg_platform.schedules.schemas import ScheduleSchema, TickOutcome, TickSchema
from vicreg_platform.schedules.spec import ScheduleSpec, parse_schedule, read_schedule
from vicreg_platform.schedules.tables import Schedule, Tick
from vicreg_platform.specs import AnySpec, FieldFault
from vicreg_platform.specs.stored import VERSION, Unreadable

logger = logging.getLogger(__name__)

ON_TIME = timedelta(minutes=1)
"""A tick that is seen later than this has been missed."""
BATCH = 100
"""Schedules looked at in one round, besides those that cannot be run."""
_WHEN = ("cron", "timezone", "ends_at", "max_runs")


class ScheduleService:
    """The use cases of schedules.

    Args:
        database: where they are stored.
        jobs: stores their jobs.
        now: the clock.
    """

    def __init__(self, database: Database, jobs: JobService, now: Clock = utc_now) -> None:
        self._database = database
        self._jobs = jobs
        self._now = now
        self._failing: set[str] = set()

    def create(self, request: Any, owner: str | None = None) -> ScheduleSchema:
        """Store a schedule; its first job is submitted at its next time.

        Raises:
            InvalidSpec: with every fault, those of its job among them.
            Forbidden: its job's priority is above the limit of the owner's keys.
        """
        spec = parse_schedule(request)
        job_spec = self._resolved(spec)
        now = self._now()
        schedule = Schedule(
            id=new_id(),
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            spec_version=VERSION,
            owner=owner,
            paused=False,
            next_tick=_next(spec, now, runs=0),
            runs=0,
            created_at=now,
            updated_at=now,
        )
        with self._database.write() as session:
            self._jobs.check_priority(session, job_spec, owner)
            repository = ScheduleRepository(session, now)
            repository.add(schedule)
            return self._answer(repository, schedule)

    def get(self, schedule_id: str, preview: int = 0) -> ScheduleSchema:
        """One schedule, with its next ``preview`` times.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            return self._answer(repository, repository.get(schedule_id), preview)

    def find(self, limit: int, cursor: str | None) -> Page[ScheduleSchema]:
        """A page of schedules, newest first."""
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            found = repository.find(limit + 1, cursor)
            answers = [self._answer(repository, schedule) for schedule in found]
        return page_of(answers, limit, lambda schedule: schedule.id)

    def ticks(self, schedule_id: str, limit: int, before: datetime | None) -> Page[TickSchema]:
        """A page of a schedule's ticks before ``before``, newest first.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            repository.get(schedule_id)
            found = repository.ticks(schedule_id, limit + 1, before)
        ticks = [TickSchema.of(tick, state) for tick, state in found]
        return page_of(ticks, limit, lambda tick: f"{tick.at:%Y-%m-%dT%H:%M:%S.%fZ}")

    def update(self, schedule_id: str, changes: dict[str, Any]) -> ScheduleSchema:
        """Change a schedule by a merge patch (RFC 7396): null resets a field to its default.

        Raises:
            NotFound: there is no such schedule.
            InvalidSpec: the result is not valid.
            Forbidden: its job's priority is above the limit of the owner's keys.
            Conflict: another change committed first; or the schedule is unreadable.
        """
        with self._database.read() as session:
            found = ScheduleRepository(session, self._now()).get(schedule_id)
        stored = found.spec
        before = _readable(found).model_dump(mode="json")
        spec = parse_schedule(_patched(before, changes))
        job_spec = self._resolved(spec)
        after = spec.model_dump(mode="json")
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.spec != stored:
                raise Conflict(f"schedule {schedule_id} was changed meanwhile: try again")
            self._jobs.check_priority(session, job_spec, schedule.owner)
            schedule.name, schedule.spec, schedule.updated_at = spec.name, after, self._now()
            schedule.spec_version = VERSION
            if not schedule.paused and any(before.get(name) != after[name] for name in _WHEN):
                schedule.next_tick = _next(spec, self._now(), schedule.runs)
            session.flush()
            return self._answer(repository, schedule)

    def delete(self, schedule_id: str) -> None:
        """Delete a schedule; its jobs stay, and continue.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            repository.get(schedule_id, lock=True)
            repository.delete(schedule_id)

    def pause(self, schedule_id: str) -> ScheduleSchema:
        """Submit no more jobs until the schedule is resumed.

        Raises:
            NotFound: there is no such schedule.
        """
        return self._set_paused(schedule_id, True)

    def resume(self, schedule_id: str) -> ScheduleSchema:
        """Submit jobs again, from the next time on; times that passed meanwhile are skipped.

        Raises:
            NotFound: there is no such schedule.
        """
        return self._set_paused(schedule_id, False)

    def run_now(self, schedule_id: str) -> JobSchema:
        """Submit a job now, besides those of the schedule's times.

        Raises:
            NotFound: there is no such schedule.
            Conflict: its last job is unfinished, and its overlap is ``skip``; or it is unreadable.
            InvalidSpec: its job's spec is no longer valid.
            Forbidden: the owner's quota or priority limit refuses the job.
        """
        now = self._now()
        with self._database.read() as session:
            schedule = ScheduleRepository(session, now).get(schedule_id)
        spec = _readable(schedule)
        request = spec.job_at(now)
        job_spec, _ = self._jobs.resolve(request)
        with self._database.write() as session:
            repository = ScheduleRepository(session, now)
            owner = repository.get(schedule_id, lock=True).owner
            repository.claim(schedule_id, now)
            tick = repository.tick(schedule_id, now)
            job = self._make(session, tick, owner, spec, job_spec, request)
            if job is None:
                raise Conflict(f"{tick.reason}, and the schedule's overlap is skip")
            return job

    def tick(self) -> None:
        """Submit the jobs that are due; what goes wrong with one schedule does not stop the others.

        Raises:
            Unavailable: the database is unreachable.
        """
        with self._database.read() as session:
            due = ScheduleRepository(session, self._now()).due(BATCH + len(self._failing))
        self._failing &= {schedule.id for schedule in due}
        for schedule in due:
            try:
                self._advance(schedule)
            except (Unavailable, LeaseLost):
                raise
            except Exception:
                # More are read while it fails, so that it keeps none from its turn.
                self._failing.add(schedule.id)
                logger.exception("schedule %s is skipped in this round", schedule.id)

    def _advance(self, schedule: Schedule) -> None:
        first = schedule.next_tick
        assert first is not None
        spec = read_schedule(schedule.spec, schedule.spec_version)
        if isinstance(spec, Unreadable):
            if schedule.id not in self._failing:
                logger.warning("schedule %s is unreadable: %s", schedule.id, spec.reason)
            self._failing.add(schedule.id)
            return
        now = self._now()
        wanted = spec.catch_up_limit if spec.catch_up == "all" else 1
        end = now if spec.ends_at is None else min(now, spec.ends_at)
        for at in spec.times.latest(first, end, wanted):
            if spec.catch_up == "none" and now - at > ON_TIME:
                self._settle(schedule.id, at, spec, TickOutcome.MISSED, "no dispatcher was running")
            else:
                self._run(schedule.id, at, spec)

    def _run(self, schedule_id: str, at: datetime, spec: ScheduleSpec) -> None:
        """Submit the job of one time."""
        request = spec.job_at(at)
        if spec.jitter:
            request["start_after"] = (at + _jitter(schedule_id, at, spec.jitter)).isoformat()
        try:
            job_spec, _ = self._jobs.resolve(request)
        except InvalidSpec as error:
            self._settle(schedule_id, at, spec, TickOutcome.REFUSED, str(error))
            return
        try:
            self._settle(schedule_id, at, spec, job=(job_spec, request))
        except Forbidden as error:
            # Nothing of it has happened: with `overlap: cancel`, the last job has not ended.
            self._settle(schedule_id, at, spec, TickOutcome.REFUSED, str(error))

    def _settle(
        self,
        schedule_id: str,
        at: datetime,
        spec: ScheduleSpec,
        outcome: TickOutcome = TickOutcome.CREATED,
        reason: str | None = None,
        job: tuple[AnySpec, dict[str, Any]] | None = None,
    ) -> None:
        """Claim a tick, store its job and set the schedule's next time, all of it or nothing.

        Of several dispatchers one gets the tick. If it dies before the transaction commits, the
        claim is rolled back, and another one takes it.

        Raises:
            Forbidden: the owner's quota or priority limit refuses the job.
        """
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.next_tick is None or at < schedule.next_tick:
                return  # another dispatcher or a user came first
            if repository.claim(schedule_id, at):
                tick = repository.tick(schedule_id, at)
                tick.outcome, tick.reason = outcome.value, reason
                if job is not None:
                    made = self._make(session, tick, schedule.owner, spec, *job)
                    schedule.runs += made is not None
                logger.info(
                    "schedule %s at %s: %s %s", schedule_id, at, tick.outcome, tick.job_id or ""
                )
            schedule.next_tick = _next(spec, at, schedule.runs)

    def _make(
        self,
        session: Session,
        tick: Tick,
        owner: str | None,
        spec: ScheduleSpec,
        job_spec: AnySpec,
        request: dict[str, Any],
    ) -> JobSchema | None:
        """Store a tick's job as the overlap policy allows, in the caller's transaction."""
        jobs = JobRepository(session, self._now())
        unfinished = jobs.unfinished_of_schedule(tick.schedule_id)
        if unfinished and spec.overlap == "skip":
            tick.outcome = TickOutcome.SKIPPED.value
            tick.reason = f"job {unfinished[0].id} is unfinished"
            return None
        if spec.overlap == "cancel":
            for job in unfinished:
                message = f"cancelled for the next job of schedule {tick.schedule_id}"
                self._jobs.stop(jobs, job.id, message)
        made = self._jobs.store(
            session,
            job_spec,
            request,
            Origin(schedule_id=tick.schedule_id, owner=owner),
            after=jobs.lock_queue_ends(tick.schedule_id),
        )
        tick.job_id = made.id
        return made

    def _set_paused(self, schedule_id: str, paused: bool) -> ScheduleSchema:
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.paused != paused:
                schedule.paused, schedule.updated_at = paused, self._now()
                schedule.next_tick = (
                    None if paused else _next(_readable(schedule), self._now(), schedule.runs)
                )
            session.flush()
            return self._answer(repository, schedule)

    def _resolved(self, spec: ScheduleSpec) -> AnySpec:
        """The spec of a job that it would submit now."""
        try:
            job_spec, _ = self._jobs.resolve(spec.job_at(self._now()))
        except InvalidSpec as error:
            faults = [FieldFault(f"job.{f.field}", f.message) for f in error.faults]
            raise InvalidSpec(faults) from None
        return job_spec

    def _answer(
        self, repository: ScheduleRepository, schedule: Schedule, preview: int = 0
    ) -> ScheduleSchema:
        last = repository.ticks(schedule.id, 1)
        last_run = repository.ticks(schedule.id, 1, outcome=TickOutcome.CREATED.value)
        spec = read_schedule(schedule.spec, schedule.spec_version)
        return ScheduleSchema.of(
            schedule,
            next((TickSchema.of(*row) for row in last), None),
            next((TickSchema.of(*row) for row in last_run), None),
            preview=[] if isinstance(spec, Unreadable) else _preview(schedule, spec, preview),
            problem=spec.reason if isinstance(spec, Unreadable) else None,
        )


def _readable(schedule: Schedule) -> ScheduleSpec:
    spec = read_schedule(schedule.spec, schedule.spec_version)
    if isinstance(spec, Unreadable):
        raise Conflict(f"schedule {schedule.id} is unreadable: {spec.reason}")
    return spec


def _preview(schedule: Schedule, spec: ScheduleSpec, count: int) -> list[datetime]:
    """The next times of a schedule, at most ``count``."""
    if schedule.next_tick is None:
        return []
    times = [schedule.next_tick, *spec.times.after(schedule.next_tick, count - 1)]
    left = None if spec.max_runs is None else spec.max_runs - schedule.runs
    times = [at for at in times if spec.ends_at is None or at <= spec.ends_at][:left]
    return times[:count]


def _next(spec: ScheduleSpec, after: datetime, runs: int) -> datetime | None:
    """The next time after ``after``, if the schedule has not ended by then."""
    if spec.max_runs is not None and runs >= spec.max_runs:
        return None
    at = next(iter(spec.times.after(after, 1)), None)
    return None if at is None or (spec.ends_at is not None and at > spec.ends_at) else at


def _jitter(schedule_id: str, at: datetime, most: timedelta) -> timedelta:
    """The same for the same tick, whoever asks."""
    digest = hashlib.sha256(f"{schedule_id} {at.isoformat()}".encode()).digest()
    return most * (int.from_bytes(digest[:8]) / 2**64)


def _patched(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result
