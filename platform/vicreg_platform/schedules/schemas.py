"""What the API answers about schedules."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from vicreg_platform.jobs.schemas import StoredState
from vicreg_platform.jobs.states import StoredEnum
from vicreg_platform.schema import Schema

if TYPE_CHECKING:  # the client has these schemas, and no SQLAlchemy
    from vicreg_platform.schedules.tables import Schedule, Tick


class ScheduleState(enum.StrEnum):
    """Whether a schedule submits jobs."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"
    """Its end date or its number of runs has been reached."""


class TickOutcome(StoredEnum):
    """The outcome of a time at which a schedule was due."""

    CREATED = "created"
    SKIPPED = "skipped"
    """The last job was unfinished."""
    MISSED = "missed"
    """No dispatcher was running, and the schedule does not catch up."""
    REFUSED = "refused"
    """The job's spec is no longer valid, or its owner's quota or priority limit refuses it."""
    UNKNOWN = "unknown"
    """A newer version has stored another one."""


class TickSchema(Schema):
    """A time at which a schedule was due, or was run by hand."""

    at: datetime
    outcome: Annotated[TickOutcome, BeforeValidator(TickOutcome.read)]
    reason: str | None
    job_id: str | None
    job_state: StoredState | None

    @classmethod
    def of(cls, tick: Tick, job_state: str | None) -> TickSchema:
        """The answer for a row and the state of its job."""
        return cls(
            at=tick.at,
            outcome=tick.outcome,
            reason=tick.reason,
            job_id=tick.job_id,
            job_state=job_state,
        )


class ScheduleSchema(Schema):
    """A schedule."""

    id: str
    name: str
    state: ScheduleState
    owner: str | None
    """The name on the key that created it; its jobs belong to them too."""
    spec: dict[str, Any]
    """Fully resolved, except for its job, which is as its user wrote it."""
    problem: str | None = None
    """Why this version of the platform cannot run it: its spec is unreadable."""
    runs: int
    """Jobs submitted, those of `run-now` not counted."""
    next: datetime | None
    """When the next job is due."""
    preview: list[datetime]
    """The next times, as many as requested."""
    last: TickSchema | None
    """The latest tick."""
    last_run: TickSchema | None
    """The latest tick that submitted a job."""
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(
        cls,
        schedule: Schedule,
        last: TickSchema | None,
        last_run: TickSchema | None,
        preview: list[datetime],
        problem: str | None,
    ) -> ScheduleSchema:
        """The answer for a row."""
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
            # A list must not fail for a row that this version cannot read.
            spec=schedule.spec if isinstance(schedule.spec, dict) else {},
            problem=problem,
            runs=schedule.runs,
            next=schedule.next_tick,
            preview=preview,
            last=last,
            last_run=last_run,
            created_at=schedule.created_at,
            updated_at=schedule.updated_at,
        )
