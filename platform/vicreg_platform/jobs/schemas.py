"""What the API answers about jobs."""

from __future__ import annotations

import enum
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vicreg_platform.contract.progress import Progress, read_progress
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.contract.trial import Trial
from vicreg_platform.jobs.states import TERMINAL, JobState
from vicreg_platform.schema import Schema

if TYPE_CHECKING:  # the client has these schemas, and no SQLAlchemy
    from vicreg_platform.jobs.tables import Attempt, Event, Job


class AttemptSchema(Schema):
    """One execution of a job on Ray."""

    number: int
    submission_id: str
    """The job's name on the Ray dashboard."""
    queued_at: datetime | None = None
    """When its job was queued for it; null before 0.3.0."""
    created_at: datetime
    submitted_at: datetime | None
    """When Ray was known to have accepted it."""
    timeline: Timeline | None = None
    """The moments that its processes have reached."""
    ended_at: datetime | None
    archived_at: datetime | None = None
    """When its log was stored with the run."""
    outcome: str | None
    """`succeeded`, `cancelled`, or the class of the failure."""
    message: str | None

    @classmethod
    def of(cls, attempt: Attempt) -> AttemptSchema:
        """The answer for a row."""
        values = {name: getattr(attempt, name) for name in cls.model_fields}
        return cls(**values | {"timeline": stored_timeline(attempt)})

    def moments(self) -> dict[str, datetime]:
        """What the attempt has reached, by name, in the order of time."""
        reached = {
            "queued": self.queued_at,
            "submitted": self.submitted_at,
            **(self.timeline.reached() if self.timeline else {}),
            "ended": self.ended_at,
            "archived": self.archived_at,
        }
        known = ((name, at) for name, at in reached.items() if at is not None)
        return dict(sorted(known, key=lambda moment: moment[1]))


class RunSchema(Schema):
    """The job's run in MLflow."""

    run_id: str
    url: str

    @classmethod
    def of(cls, mlflow_public_url: str, run_id: str, experiment_id: str) -> RunSchema:
        """The run, and the address at which a browser finds it."""
        url = f"{mlflow_public_url}/#/experiments/{experiment_id}/runs/{run_id}"
        return cls(run_id=run_id, url=url)


class JobSchema(Schema):
    """A job."""

    id: str
    kind: str
    name: str
    experiment: str
    state: JobState
    reason: str | None
    """Why the job is in this state."""
    failure: str | None
    """The class of the failure: infrastructure, user, diverged, out_of_memory, timeout."""
    spec: dict[str, Any]
    """Fully resolved."""
    spec_version: int | None = None
    """The version of stored specs that wrote it; null before 0.3.0."""
    labels: dict[str, str]
    priority: int
    depends_on: list[str]
    """The jobs that this one waits for."""
    start_after: datetime | None = None
    """It waits until this moment."""
    deadline: datetime | None = None
    """It fails unless it has finished by this moment."""
    retry_of: str | None
    """The job that this one retries."""
    promoted_from: str | None = None
    """The sweep whose best configuration this one trains."""
    parent: str | None = None
    """The job that this one follows from: the pretraining that an evaluation measures, the sweep
    whose best configuration this one trains."""
    schedule_id: str | None = None
    """The schedule that submitted it."""
    owner: str | None = None
    """The name on the key that submitted it."""
    attempts: list[AttemptSchema]
    mlflow: RunSchema | None
    progress: Progress | None
    summary: dict[str, float]
    """The latest value of each metric."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in TERMINAL

    @classmethod
    def of(cls, job: Job, mlflow_public_url: str) -> JobSchema:
        """The answer for a row loaded with its attempts, dependencies and labels."""
        # A list must not fail for a row that this version cannot read.
        spec = job.spec if isinstance(job.spec, dict) else {}
        run = None
        if job.run_id is not None and job.experiment_id is not None:
            run = RunSchema.of(mlflow_public_url, job.run_id, job.experiment_id)
        return cls(
            id=job.id,
            kind=job.kind,
            name=job.name,
            experiment=job.experiment,
            state=JobState(job.state),
            reason=job.reason,
            failure=job.failure,
            spec=spec,
            spec_version=job.spec_version,
            labels={label.key: label.value for label in job.labels},
            priority=job.priority,
            depends_on=[dependency.depends_on for dependency in job.dependencies],
            start_after=job.start_after,
            deadline=job.deadline,
            retry_of=job.retry_of,
            promoted_from=job.promoted_from,
            parent=job.parent_id,
            schedule_id=job.schedule_id,
            owner=job.owner,
            attempts=[AttemptSchema.of(attempt) for attempt in job.attempts],
            mlflow=run,
            progress=read_progress(job.progress),
            summary=_numbers(job.summary),
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


def stored_timeline(attempt: Attempt) -> Timeline | None:
    """The timeline in a row; None if there is none, or one that this version cannot read."""
    try:
        return Timeline.model_validate(attempt.timeline) if attempt.timeline else None
    except ValidationError:
        return None


def _numbers(summary: object) -> dict[str, float]:
    """The finite numbers of a summary: JSON has no others."""
    if not isinstance(summary, dict):
        return {}
    numbers = {k: v for k, v in summary.items() if isinstance(v, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


class JobSort(enum.StrEnum):
    """What jobs are sorted by."""

    CREATED = "created"
    FINISHED = "finished"
    """Unfinished jobs count as the latest."""
    NAME = "name"
    PRIORITY = "priority"


class Order(enum.StrEnum):
    """A direction of sorting."""

    ASC = "asc"
    DESC = "desc"


class JobField(enum.StrEnum):
    """A field by whose values jobs are counted."""

    STATE = "state"
    KIND = "kind"
    EXPERIMENT = "experiment"
    OWNER = "owner"


class Count(Schema):
    """How many jobs have a value."""

    value: str | None
    count: int


class Counts(Schema):
    """How many jobs there are."""

    total: int
    items: list[Count]
    """By the values of a field, the most frequent first, 100 at most."""


class TrialSort(enum.StrEnum):
    """The order in which trials are listed."""

    RANK = "rank"
    """Best first."""
    NUMBER = "number"
    """First started first."""
    EPOCH = "epoch"
    """Most epochs first."""


class TrialSchema(Trial):
    """A trial and its rank."""

    rank: int | None
    """1 for the best; null before the first value of the objective."""
    stopped_early: bool
    mlflow: RunSchema


class EventSchema(Schema):
    """One change of a job's state, or a moment that its attempt has reached.

    The state before such a moment is the one after it.
    """

    id: int
    at: datetime
    before: JobState | None
    after: JobState
    attempt: int | None
    message: str | None

    @classmethod
    def of(cls, event: Event) -> EventSchema:
        """The answer for a row."""
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class JobEvent(EventSchema):
    """An event, and the job that it is of."""

    job_id: str
    kind: str
    name: str
    experiment: str
    owner: str | None

    @classmethod
    def of_job(cls, event: Event, job: Job) -> JobEvent:
        """The answer for a row and its job's."""
        return cls(
            **EventSchema.of(event).model_dump(),
            job_id=job.id,
            kind=job.kind,
            name=job.name,
            experiment=job.experiment,
            owner=job.owner,
        )


class JobProgress(Schema):
    """How far a job on the cluster is."""

    job_id: str
    state: JobState
    progress: Progress | None
    summary: dict[str, float]

    @classmethod
    def of(cls, job: Job) -> JobProgress:
        """The answer for a row."""
        return cls(
            job_id=job.id,
            state=JobState(job.state),
            progress=read_progress(job.progress),
            summary=_numbers(job.summary),
        )


class DryRun(Schema):
    """What a POST would do."""

    spec: dict[str, Any]
    """Fully resolved."""
    warnings: list[str]
