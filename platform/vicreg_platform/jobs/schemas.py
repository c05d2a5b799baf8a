"""What the API answers about jobs."""

from __future__ import annotations

import enum
import math
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, ValidationError

from vicreg_platform.contract.progress import Progress, read_progress
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.jobs.states import TERMINAL, JobState, StopCause
from vicreg_platform.schema import Schema

if TYPE_CHECKING:  # the client has these schemas, and no SQLAlchemy
    from vicreg_platform.jobs.tables import Attempt, Event, Job

StoredState = Annotated[JobState, BeforeValidator(JobState.read)]
"""`unknown` if another version has stored, or answers, a state that this one does not know."""


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
    """`succeeded`, the class of the failure, or what it was stopped for: `cancelled`, `paused`,
    `preempted` or `resized`."""
    workers: int | None = None
    """How many it was given; null for a sweep, and for evaluations before 0.3.0."""
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


class QueuePlace(Schema):
    """Where a job that waits for room stands."""

    position: int | None
    """1 for the next; null if it is beyond the first 1,000, or has only just come."""
    waits_for: list[str]
    """The jobs that it waits for, if it is known which."""
    start: datetime | None
    """When it is expected to start, to the minute; null if nobody can know: a job before it does
    not say when it ends."""
    basis: str | None
    """What that rests on: `progress` of running jobs (sooner or later), or the `max_runtime` of
    some (then it may be sooner)."""


class JobSchema(Schema):
    """A job."""

    id: str
    kind: str
    name: str
    experiment: str
    state: StoredState
    reason: str | None
    """Why the job is in this state."""
    stopping_for: StopCause | None = None
    """What it is stopped for, while it is `stopping`."""
    failure: str | None
    """The class of the failure: infrastructure, user, diverged, out_of_memory, timeout."""
    spec: dict[str, Any]
    """Fully resolved."""
    spec_version: int | None = None
    """The version of stored specs that wrote it; null before 0.3.0."""
    labels: dict[str, str]
    version: int = 1
    """How often its owner has changed it, and 1: what `If-Match` compares."""
    priority: int
    preemptible: bool = False
    """Whether it may be stopped for a job of higher priority."""
    workers: int | None = None
    """How many it has, or had last; null for a sweep, whose trials have theirs."""
    made_room_for: str | None = None
    """The job that has taken its place."""
    queue: QueuePlace | None = None
    """Where it stands, if it is queued; only in the answer for one job."""
    depends_on: list[str]
    """The jobs that this one waits for."""
    start_after: datetime | None = None
    """It waits until this moment."""
    deadline: datetime | None = None
    """It fails unless it has finished by this moment."""
    retry_of: str | None
    """The job that this one retries."""
    extends: str | None = None
    """The pretraining that this one continues."""
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
    progress_at: datetime | None = None
    """When its progress last changed."""
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
            state=job.state,
            reason=job.reason,
            stopping_for=job.stopping_for,
            failure=job.failure,
            spec=spec,
            spec_version=job.spec_version,
            labels={label.key: label.value for label in job.labels},
            version=job.version,
            priority=job.priority,
            preemptible=bool(job.preemptible),
            workers=None if job.kind == "sweep" else job.workers,
            made_room_for=job.displaced_by,
            depends_on=[dependency.depends_on for dependency in job.dependencies],
            start_after=job.start_after,
            deadline=job.deadline,
            retry_of=job.retry_of,
            extends=job.extends,
            promoted_from=job.promoted_from,
            parent=job.parent_id,
            schedule_id=job.schedule_id,
            owner=job.owner,
            attempts=[AttemptSchema.of(attempt) for attempt in job.attempts],
            mlflow=run,
            progress=read_progress(job.progress),
            progress_at=job.progress_at,
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


class TrainingSchema(Schema):
    """A training of a trial: its configuration with one seed."""

    seed: int
    state: TrialState
    progress: Progress | None
    summary: dict[str, float]
    """The latest value of each metric."""
    mlflow: RunSchema


class TrialDetail(TrialSchema):
    """A trial and its trainings."""

    trainings: list[TrainingSchema]
    """One for each seed that has begun, the first seed's first."""


class CheckpointSchema(Schema):
    """A checkpoint of a pretraining: the state after a step, from which it can resume."""

    step: int
    epoch: float | None = None
    """Epochs trained, not whole after a stop; null if the job does not say how many steps one
    has."""
    saved_at: datetime | None = None
    """By the clock of the node; null if the workers have not said."""
    size: int | None = None
    """In bytes, of all its files."""
    workers: int | None = None
    """By how many it was saved; null if the workers have not said."""
    storage: str | None = None
    """Where it is in the storage, as the workers see it; null if they have not said that it is
    there."""
    present: bool | None = None
    """Whether it is there now. Null if the API does not see the storage: then it was there when
    the workers last saved or started."""
    artifact: str | None = None
    """Where it is among the job's files; null if it is not: only the last one is uploaded, when the
    training has succeeded."""


class CheckpointsSchema(Schema):
    """The checkpoints of a pretraining."""

    items: list[CheckpointSchema]
    """The newest 20, newest first."""
    total: int
    """How many there are."""


class EventSchema(Schema):
    """One change of a job's state, a moment that its attempt has reached, or a finding.

    The state before such a moment is the one after it.
    """

    id: int
    at: datetime
    before: StoredState | None
    after: StoredState
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
    state: StoredState
    progress: Progress | None
    progress_at: datetime | None
    summary: dict[str, float]

    @classmethod
    def of(cls, job: Job) -> JobProgress:
        """The answer for a row."""
        return cls(
            job_id=job.id,
            state=job.state,
            progress=read_progress(job.progress),
            progress_at=job.progress_at,
            summary=_numbers(job.summary),
        )


class ExtensionSchedule(enum.StrEnum):
    """How the learning rate of an extended pretraining continues."""

    ANNEAL = "anneal"
    """As in one run over the whole length, from where that would be."""
    REWARM = "rewarm"
    """It rises to its peak once more, and falls over the rest."""


class Extended(Schema):
    """A new job that extends a pretraining or sweep."""

    job: JobSchema
    """The new job."""
    warnings: list[str]
    """How its result differs from that of one run of the whole length."""


class Score(Schema):
    """A metric's value, and where it was measured."""

    value: float
    job: str
    """The evaluation, or the pretraining itself."""


class Registered(Schema):
    """A version of a registered model."""

    name: str
    version: int
    alias: str | None
    scores: dict[str, Score]
    """By metric: those that are stored as tags, `score.<metric>`."""
    url: str
    """Its page in MLflow."""


class CostBasis(enum.StrEnum):
    """What the time of a training is reckoned from."""

    RUN = "run"
    """An epoch or more of a run, up to its last step, with its measurements and checkpoints."""
    RATE = "rate"
    """The last images per second of a run: measurements and checkpoints take more."""


class TrainingCost(Schema):
    """What a pretraining would take, as measured in a run whose steps cost the same.

    Network, images, views, batch, precision, optimizer and workers are the same there.
    """

    seconds: float
    """From the first step to the last: without the wait in the queue and the start."""
    basis: CostBasis
    images_per_second: float
    """Over all workers; the two views of an image count once."""
    workers: int
    device: str | None
    """What they trained on: the name of the GPU, or `CPU`; null if the run does not say."""
    peak_memory: int | None
    """The most memory, in bytes, that a worker took: of its GPU; on a CPU, of its process. Null if
    the run does not say."""
    job: str
    """The run."""
    name: str
    """Its job's."""


class DryRun(Schema):
    """What a POST would do."""

    spec: dict[str, Any]
    """Fully resolved."""
    warnings: list[str]
    cost: TrainingCost | None = None
    """What the training would take; null if no run is known whose steps cost the same, or if the
    job is not a pretraining."""
    reason: str | None = None
    """Why it would not start at once; null if it would, or if nobody can know."""
    queue: QueuePlace | None = None
    """Where it would stand; null if the dispatcher has not said what the cluster has."""
