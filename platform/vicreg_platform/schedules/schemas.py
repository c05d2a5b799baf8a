"""What the API answers about schedules."""

from __future__ import annotations

import enum
from datetime import datetime

from vicreg_platform.jobs.schemas import View
from vicreg_platform.jobs.states import JobState
from vicreg_platform.schedules.spec import ScheduleSpec
from vicreg_platform.schedules.tables import Schedule, Tick


class ScheduleState(enum.StrEnum):
    """Whether a schedule makes jobs."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"
    """Its end date or its number of runs has been reached."""


class TickOutcome(enum.StrEnum):
    """What became of a time at which a schedule was due."""

    CREATED = "created"
    SKIPPED = "skipped"
    """The last job had not ended."""
    MISSED = "missed"
    """No dispatcher was at work, and the schedule does not catch up."""
    REFUSED = "refused"
    """The job's spec is no longer valid, or its owner's quota is used up."""


class TickView(View):
    """A time at which a schedule was due, or was run by hand."""

    at: datetime
    outcome: TickOutcome
    reason: str | None
    job_id: str | None
    job_state: JobState | None

    @classmethod
    def of(cls, tick: Tick, job_state: str | None) -> TickView:
        """The view of a row and of its job's state."""
        return cls(
            at=tick.at,
            outcome=TickOutcome(tick.outcome),
            reason=tick.reason,
            job_id=tick.job_id,
            job_state=None if job_state is None else JobState(job_state),
        )


class ScheduleView(View):
    """A schedule."""

    id: str
    name: str
    state: ScheduleState
    owner: str | None
    """Whose key it was made with; its jobs are theirs."""
    spec: ScheduleSpec
    runs: int
    """Jobs made, those of `run-now` not counted."""
    next: datetime | None
    """When the next job is due."""
    preview: list[datetime]
    """The next times, as many as were asked for."""
    last: TickView | None
    """The latest tick."""
    last_run: TickView | None
    """The latest that made a job."""
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        last: TickView | None,
        last_run: TickView | None,
        preview: list[datetime],
    ) -> ScheduleView:
        """The view of a row."""
        state = ScheduleState.ACTIVE
        if schedule.paused:
            state = ScheduleState.PAUSED
        elif schedule.next_tick is None:
            state = ScheduleState.ENDED
        return cls(
            id=schedule.id,
            name=schedule.name,
            state=state,
            owner=schedule.owner,
            spec=ScheduleSpec.model_validate(schedule.spec),
            runs=schedule.runs,
            next=schedule.next_tick,
            preview=preview,
            last=last,
            last_run=last_run,
            created_at=schedule.created_at,
            updated_at=schedule.updated_at,
        )


class SchedulePage(View):
    """Some schedules, newest first."""

    items: list[ScheduleView]
    next_cursor: str | None


class TickPage(View):
    """Some ticks of a schedule, newest first."""

    items: list[TickView]
    next_cursor: datetime | None
