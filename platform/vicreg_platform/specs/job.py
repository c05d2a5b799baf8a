"""What every kind of job has."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from vicreg_platform.specs.base import CrossFieldError, Labels, Moment, Name, SpecModel
from vicreg_platform.specs.retry import Retry

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Duration = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(days=365))]


class JobSpec(SpecModel):
    """The fields that a pretraining, an evaluation and a sweep share."""

    kind: str
    name: Name
    experiment: Name = "default"
    """The MLflow experiment that the run belongs to."""
    labels: Labels = Field(default_factory=dict)
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher runs first."""
    depends_on: tuple[Identifier, ...] = Field(default=(), max_length=100)
    """Jobs that must have ended before this one starts."""
    condition: Literal["succeeded", "finished"] = "succeeded"
    """How they must have ended: a job whose dependency has not ``succeeded`` is cancelled;
    ``finished`` is any end."""
    start_after: Moment | None = None
    """The job does not start before this moment."""
    deadline: Moment | None = None
    """A job that has not ended by this moment fails as ``timeout``."""
    max_runtime: Duration | None = None
    """An attempt that takes longer fails as ``timeout``, and the job with it: seconds, or as in
    ``PT12H``."""
    retry: Retry = Retry()

    @property
    def encoder_job(self) -> str | None:
        """The job whose encoder this one is about."""
        return None

    @model_validator(mode="after")
    def _deadline_after_start(self) -> JobSpec:
        if self.start_after and self.deadline and self.deadline <= self.start_after:
            fields = ("deadline", "start_after")
            raise CrossFieldError([(fields, "must be later than start_after")])
        return self


WHEN = ("depends_on", "condition", "start_after", "deadline", "max_runtime")
"""Fields that say when a job runs."""
OF_THE_JOB = ("name", "experiment", "labels", "priority", *WHEN)
"""Fields that say nothing of the training itself."""
