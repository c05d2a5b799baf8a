"""What the API answers about jobs."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.trial import Trial
from vicreg_platform.jobs.states import TERMINAL, JobState
from vicreg_platform.jobs.tables import Attempt, Event, Job


class View(BaseModel):
    """An answer; its docstrings are the API's documentation."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class AttemptView(View):
    """One execution of a job on Ray."""

    number: int
    submission_id: str
    """The job's name on the Ray dashboard."""
    created_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    outcome: str | None
    """`succeeded`, `cancelled`, or the class of the failure."""
    message: str | None

    @classmethod
    def of(cls, attempt: Attempt) -> AttemptView:
        """The view of a row."""
        return cls(**{name: getattr(attempt, name) for name in cls.model_fields})


class RunView(View):
    """Where the job's run is in MLflow."""

    run_id: str
    url: str

    @classmethod
    def of(cls, mlflow_public_url: str, run_id: str, experiment_id: str) -> RunView:
        """Where a browser finds the run."""
        url = f"{mlflow_public_url}/#/experiments/{experiment_id}/runs/{run_id}"
        return cls(run_id=run_id, url=url)


class JobView(View):
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
    labels: dict[str, str]
    priority: int
    depends_on: list[str]
    """The jobs whose end this one waits for."""
    start_after: datetime | None = None
    """It waits until this moment."""
    deadline: datetime | None = None
    """It fails where it has not ended by this moment."""
    retry_of: str | None
    """The ended job that this one tries again."""
    promoted_from: str | None = None
    """The sweep whose best configuration this one trains."""
    schedule_id: str | None = None
    """The schedule that made it."""
    owner: str | None = None
    """Whose key it was submitted with."""
    attempts: list[AttemptView]
    mlflow: RunView | None
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
    def of(cls, job: Job, mlflow_public_url: str) -> JobView:
        """The view of a row that was loaded with its attempts and dependencies."""
        run = None
        if job.run_id is not None and job.experiment_id is not None:
            run = RunView.of(mlflow_public_url, job.run_id, job.experiment_id)
        return cls(
            id=job.id,
            kind=job.kind,
            name=job.name,
            experiment=job.experiment,
            state=JobState(job.state),
            reason=job.reason,
            failure=job.failure,
            spec=job.spec,
            labels=job.spec.get("labels", {}),
            priority=job.priority,
            depends_on=[dependency.depends_on for dependency in job.dependencies],
            start_after=job.start_after,
            deadline=job.deadline,
            retry_of=job.retry_of,
            promoted_from=job.promoted_from,
            schedule_id=job.schedule_id,
            owner=job.owner,
            attempts=[AttemptView.of(attempt) for attempt in job.attempts],
            mlflow=run,
            progress=Progress(**job.progress) if job.progress else None,
            summary=job.summary,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


class JobPage(View):
    """Some jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None
    """Pass as `cursor` for the next page; null on the last one."""


class TrialSort(enum.StrEnum):
    """By what trials are listed."""

    RANK = "rank"
    """Best first."""
    NUMBER = "number"
    """In the order of their start."""
    EPOCH = "epoch"
    """Longest trained first."""


class TrialView(Trial):
    """A trial and its place."""

    rank: int | None
    """1 for the best; null before the first value of the objective."""
    stopped_early: bool
    mlflow: RunView


class TrialPage(View):
    """Some trials of a sweep."""

    items: list[TrialView]
    next_cursor: str | None


class EventView(View):
    """One change of a job's state."""

    id: int
    at: datetime
    before: JobState | None
    after: JobState
    attempt: int | None
    message: str | None

    @classmethod
    def of(cls, event: Event) -> EventView:
        """The view of a row."""
        return cls(**{name: getattr(event, name) for name in cls.model_fields})


class EventPage(View):
    """Some events, oldest first."""

    items: list[EventView]
    next_cursor: str | None


class DryRun(View):
    """What a POST would do."""

    spec: dict[str, Any]
    """Fully resolved."""
    warnings: list[str]
