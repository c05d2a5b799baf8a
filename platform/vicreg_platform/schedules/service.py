"""What can be done with schedules. One use case is one transaction."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from vicreg_platform.database import Database
from vicreg_platform.errors import Conflict, InvalidSpec, QuotaExceeded, Unavailable
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.schemas import JobView
from vicreg_platform.jobs.service import JobService, Origin, utc_now
from vicreg_platform.jobs.tables import new_id
from vicreg_platform.schedules.repository import ScheduleRepository
from vicreg_platform.schedules.schemas import (
    SchedulePage,
    ScheduleView,
    TickOutcome,
    TickPage,
    TickView,
)
from vicreg_platform.schedules.spec import ScheduleSpec, parse_schedule
from vicreg_platform.schedules.tables import Schedule, Tick
from vicreg_platform.specs import AnySpec, FieldFault

logger = logging.getLogger(__name__)

ON_TIME = timedelta(minutes=1)
"""A tick that is seen later than this has been missed."""
BATCH = 100
"""Schedules looked at in one round."""
_WHEN = ("cron", "timezone", "ends_at", "max_runs")


class ScheduleService:
    """The use cases of schedules.

    Args:
        database: where they are stored.
        jobs: makes their jobs.
        now: the clock.
    """

    def __init__(
        self, database: Database, jobs: JobService, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._now = now

    def create(self, request: Any, owner: str | None = None) -> ScheduleView:
        """Store a schedule; its first job is made at its next time.

        Raises:
            InvalidSpec: with every fault, those of its job among them.
        """
        spec = self._checked(request)
        now = self._now()
        schedule = Schedule(
            id=new_id(),
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            owner=owner,
            paused=False,
            next_tick=_next(spec, now, runs=0),
            runs=0,
            created_at=now,
            updated_at=now,
        )
        with self._database.write() as session:
            repository = ScheduleRepository(session, now)
            repository.add(schedule)
            return self._view(repository, schedule)

    def get(self, schedule_id: str, preview: int = 0) -> ScheduleView:
        """One schedule, with its next ``preview`` times.

        Raises:
            NotFound: there is none of this id.
        """
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            return self._view(repository, repository.get(schedule_id), preview)

    def find(self, limit: int, cursor: str | None) -> SchedulePage:
        """A page of schedules, newest first."""
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            found = repository.find(limit + 1, cursor)
            items = [self._view(repository, schedule) for schedule in found[:limit]]
        return SchedulePage(items=items, next_cursor=items[-1].id if len(found) > limit else None)

    def ticks(self, schedule_id: str, limit: int, before: datetime | None) -> TickPage:
        """A page of what became of a schedule's times before ``before``, newest first.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.read() as session:
            repository = ScheduleRepository(session, self._now())
            repository.get(schedule_id)
            found = repository.ticks(schedule_id, limit + 1, before)
        items = [TickView.of(tick, state) for tick, state in found[:limit]]
        more = len(found) > limit
        return TickPage(items=items, next_cursor=items[-1].at if more else None)

    def update(self, schedule_id: str, changes: dict[str, Any]) -> ScheduleView:
        """Change a schedule by a merge patch (RFC 7396): null gives a field its default again.

        Raises:
            NotFound: there is no such schedule.
            InvalidSpec: the result is not valid.
            Conflict: another change came in between.
        """
        with self._database.read() as session:
            before = ScheduleRepository(session, self._now()).get(schedule_id).spec
        spec = self._checked(_patched(before, changes))
        after = spec.model_dump(mode="json")
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.spec != before:
                raise Conflict(f"schedule {schedule_id} was changed meanwhile: try again")
            schedule.name, schedule.spec, schedule.updated_at = spec.name, after, self._now()
            if not schedule.paused and any(before[name] != after[name] for name in _WHEN):
                schedule.next_tick = _next(spec, self._now(), schedule.runs)
            session.flush()
            return self._view(repository, schedule)

    def delete(self, schedule_id: str) -> None:
        """Remove a schedule; the jobs that it has made stay, and go on.

        Raises:
            NotFound: there is no such schedule.
        """
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            repository.get(schedule_id, lock=True)
            repository.delete(schedule_id)

    def pause(self, schedule_id: str) -> ScheduleView:
        """Make no more jobs until it is resumed.

        Raises:
            NotFound: there is no such schedule.
        """
        return self._set_paused(schedule_id, True)

    def resume(self, schedule_id: str) -> ScheduleView:
        """Make jobs again, from the next time on: what was due meanwhile is not made up for.

        Raises:
            NotFound: there is no such schedule.
        """
        return self._set_paused(schedule_id, False)

    def run_now(self, schedule_id: str) -> JobView:
        """Make a job besides those of the schedule's times.

        Raises:
            NotFound: there is no such schedule.
            Conflict: its last job has not ended, and its overlap is ``skip``.
            InvalidSpec: its job's spec is no longer valid.
        """
        now = self._now()
        with self._database.read() as session:
            stored = ScheduleRepository(session, now).get(schedule_id).spec
        spec = ScheduleSpec.model_validate(stored)
        request = spec.job_at(now)
        job_spec, _ = self._jobs.checked(request)
        with self._database.write() as session:
            repository = ScheduleRepository(session, now)
            owner = repository.get(schedule_id, lock=True).owner
            repository.claim(schedule_id, now)
            tick = repository.tick(schedule_id, now)
            jobs = JobRepository(session, now)
            job = self._make(jobs, tick, owner, spec, job_spec, request)
            if job is None:
                raise Conflict(f"{tick.reason}, and the schedule's overlap is skip")
            return job

    def tick(self) -> None:
        """Make the jobs that are due; what goes wrong with one schedule holds up no other.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._database.read() as session:
            due = ScheduleRepository(session, self._now()).due(BATCH)
        for schedule in due:
            try:
                self._advance(schedule)
            except Unavailable:
                raise
            except Exception:
                logger.exception("schedule %s is left as it is in this round", schedule.id)

    def _advance(self, schedule: Schedule) -> None:
        first = schedule.next_tick
        assert first is not None
        spec = ScheduleSpec.model_validate(schedule.spec)
        now = self._now()
        wanted = spec.catch_up_limit if spec.catch_up == "all" else 1
        end = now if spec.ends_at is None else min(now, spec.ends_at)
        latest = itertools.islice(spec.times.until(end), wanted)
        due = list(itertools.takewhile(lambda at: at >= first, latest))[::-1]
        for at in due:
            if spec.catch_up == "none" and now - at > ON_TIME:
                self._settle(schedule.id, at, spec, TickOutcome.MISSED, "no dispatcher was at work")
            else:
                self._run(schedule.id, at, spec)

    def _run(self, schedule_id: str, at: datetime, spec: ScheduleSpec) -> None:
        """Make the job of one time."""
        request = spec.job_at(at)
        if spec.jitter:
            request["start_after"] = (at + _jitter(schedule_id, at, spec.jitter)).isoformat()
        try:
            job_spec, _ = self._jobs.checked(request)
        except InvalidSpec as error:
            self._settle(schedule_id, at, spec, TickOutcome.REFUSED, str(error))
            return
        self._settle(schedule_id, at, spec, job=(job_spec, request))

    def _settle(
        self,
        schedule_id: str,
        at: datetime,
        spec: ScheduleSpec,
        outcome: TickOutcome = TickOutcome.CREATED,
        reason: str | None = None,
        job: tuple[AnySpec, dict[str, Any]] | None = None,
    ) -> None:
        """Claim a tick, make its job and move the schedule on, all of it or nothing.

        Of several dispatchers one gets the tick; if it dies before the transaction ends, the
        database forgets the claim, and another one takes it.
        """
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.next_tick is None or at < schedule.next_tick:
                return  # another dispatcher or a user was quicker
            if repository.claim(schedule_id, at):
                tick = repository.tick(schedule_id, at)
                tick.outcome, tick.reason = outcome.value, reason
                jobs = JobRepository(session, self._now())
                if job is not None:
                    made = self._make_or_refuse(jobs, tick, schedule.owner, spec, *job)
                    schedule.runs += made
                logger.info(
                    "schedule %s at %s: %s %s", schedule_id, at, tick.outcome, tick.job_id or ""
                )
            schedule.next_tick = _next(spec, at, schedule.runs)

    def _make_or_refuse(
        self, jobs: JobRepository, tick: Tick, owner: str | None, *what: Any
    ) -> bool:
        try:
            return self._make(jobs, tick, owner, *what) is not None
        except QuotaExceeded as error:
            tick.outcome, tick.reason = TickOutcome.REFUSED.value, str(error)
            return False

    def _make(
        self,
        jobs: JobRepository,
        tick: Tick,
        owner: str | None,
        spec: ScheduleSpec,
        job_spec: AnySpec,
        request: dict[str, Any],
    ) -> JobView | None:
        """Make a tick's job as the overlap policy allows, in the caller's transaction."""
        unfinished = jobs.unfinished_of_schedule(tick.schedule_id)
        if unfinished and spec.overlap == "skip":
            tick.outcome = TickOutcome.SKIPPED.value
            tick.reason = f"job {unfinished[0].id} has not ended"
            return None
        if spec.overlap == "cancel":
            for job in unfinished:
                message = f"cancelled for the next job of schedule {tick.schedule_id}"
                self._jobs.stop(jobs, job.id, message)
        made = self._jobs.store(
            jobs,
            job_spec,
            request,
            Origin(schedule_id=tick.schedule_id, owner=owner),
            after=[job.id for job in unfinished],
        )
        tick.job_id = made.id
        return made

    def _set_paused(self, schedule_id: str, paused: bool) -> ScheduleView:
        with self._database.write() as session:
            repository = ScheduleRepository(session, self._now())
            schedule = repository.get(schedule_id, lock=True)
            if schedule.paused != paused:
                spec = ScheduleSpec.model_validate(schedule.spec)
                schedule.paused, schedule.updated_at = paused, self._now()
                schedule.next_tick = (
                    None if paused else _next(spec, self._now(), runs=schedule.runs)
                )
            session.flush()
            return self._view(repository, schedule)

    def _checked(self, request: Any) -> ScheduleSpec:
        spec = parse_schedule(request)
        try:
            self._jobs.checked(spec.job_at(self._now()))
        except InvalidSpec as error:
            faults = [FieldFault(f"job.{f.field}", f.message) for f in error.faults]
            raise InvalidSpec(faults) from None
        return spec

    def _view(
        self, repository: ScheduleRepository, schedule: Schedule, preview: int = 0
    ) -> ScheduleView:
        last = repository.ticks(schedule.id, 1)
        last_run = repository.ticks(schedule.id, 1, outcome=TickOutcome.CREATED.value)
        times: list[datetime] = []
        if schedule.next_tick is not None:
            spec = ScheduleSpec.model_validate(schedule.spec)
            times = [schedule.next_tick, *spec.times.after(schedule.next_tick, preview - 1)]
            left = None if spec.max_runs is None else spec.max_runs - schedule.runs
            times = [at for at in times if spec.ends_at is None or at <= spec.ends_at][:left]
        return ScheduleView.of(
            schedule,
            next((TickView.of(*row) for row in last), None),
            next((TickView.of(*row) for row in last_run), None),
            times[:preview],
        )


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
