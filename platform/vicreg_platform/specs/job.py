"""What every kind of job has, and what each kind answers about itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from vicreg_platform.needs import Needs
from vicreg_platform.specs.base import (
    CrossFieldError,
    FieldFault,
    Labels,
    Moment,
    Name,
    SpecModel,
    TimeSpan,
)
from vicreg_platform.specs.data import Data

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
ModelAddress = Annotated[
    str, StringConstraints(pattern=r"^models:/([^/\s]+/[^/\s]+|[^/\s]+@[^/\s@]+)$")
]
"""A version in MLflow's model registry, ``models:/NAME/1``, or an alias, ``models:/NAME@ALIAS``."""
MOST_WORKERS = 1024
Duration = Annotated[TimeSpan, Field(gt=timedelta(0), le=timedelta(days=365))]


class Retry(SpecModel):
    """Only infrastructure failures are retried; each attempt resumes from the last checkpoint."""

    max_attempts: int = Field(default=3, ge=1, le=100)
    """For a sweep, of its driver: a lost trial is retried up to 3 times within an attempt."""


class JobSpec(SpecModel):
    """The fields that a pretraining, an evaluation and a sweep share."""

    kind: str
    name: Name
    experiment: Name = "default"
    """The MLflow experiment that the run belongs to."""
    labels: Labels = Field(default_factory=dict)
    """Text by key, to search by: ``GET /v1/jobs?label=key=value``."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Higher runs first."""
    depends_on: tuple[Identifier, ...] = Field(default=(), max_length=100)
    """Jobs that must finish before this one starts; until then it is ``waiting``. Only jobs that
    exist can be named, so there are no cycles."""
    condition: Literal["succeeded", "finished"] = "succeeded"
    """How they must finish. With ``succeeded``, this job is cancelled if one of them fails or is
    cancelled; ``finished`` is any end."""
    start_after: Moment | None = None
    """The job does not start before this moment, such as ``2026-12-24T18:00:00+01:00``."""
    deadline: Moment | None = None
    """A job that has not finished by this moment fails as ``timeout``."""
    max_runtime: Duration | None = None
    """An attempt that takes longer, counted from its submission to Ray, fails as ``timeout``, and
    the job with it: seconds, or as in ``PT12H``. Its last checkpoint stays for a retry."""
    preemptible: bool = True
    """Whether it may be stopped, or made smaller, for a job of higher priority. It saves the step
    that it is at, and resumes from it later."""
    retry: Retry = Retry()

    @abstractmethod
    def needs(self) -> Needs:
        """What the job occupies while it runs."""

    @abstractmethod
    def datasets(self) -> dict[str, Data]:
        """The data that the job and its follow-ups read, by the fields that name it."""

    def follow_ups(self, job_id: str) -> Sequence[JobSpec]:
        """The jobs that are submitted with this one, as job ``job_id``, and wait for it."""
        return ()

    @property
    def encoder_job(self) -> str | None:
        """The job whose encoder this one uses or starts from."""
        return None

    @property
    def encoder_epoch(self) -> int | None:
        """The epoch after which that encoder was kept; None for the one at the end."""
        return None

    @property
    def parent_job(self) -> str | None:
        """The job under which this one and its run stand."""
        return None

    @property
    def encoder_field(self) -> str:
        """The field that names the encoder."""
        return "encoder"

    @property
    def encoder_path(self) -> str | None:
        """The file under the data root whose encoder this one uses or starts from."""
        return None

    @property
    def extended_job(self) -> str | None:
        """The pretraining or sweep that this one continues."""
        return None

    def extension_faults(self, extended: JobSpec) -> list[FieldFault]:
        """How this spec differs from that of the job that it extends, where it may not."""
        job = self.extended_job
        if job is None:
            return []
        if type(extended) is not type(self):
            noun = {"pretrain": "pretraining"}.get(self.kind, self.kind)
            return [FieldFault("extends.job", f"job {job} is not a {noun}")]
        already = self._already_done(extended)
        different = self._unlike(extended)
        return already + [FieldFault(name, f"must be as in job {job}") for name in different]

    def _already_done(self, extended: Self) -> list[FieldFault]:
        """The fault of ``extends``, if it misstates what the extended job has done."""
        return []

    def _unlike(self, extended: Self) -> list[str]:
        """The fields that must be as in the extended job, and are not."""
        return []

    @property
    def elastic_sizes(self) -> tuple[int, ...]:
        """The numbers of workers that an elastic job can run with, ascending; else empty."""
        return ()

    def runs_in_driver(self, workers: int) -> bool:
        """Whether the job is one process: its driver, which then holds its resources."""
        return workers == 1

    @model_validator(mode="after")
    def _deadline_after_start(self) -> JobSpec:
        if self.start_after and self.deadline and self.deadline <= self.start_after:
            fields = ("deadline", "start_after")
            raise CrossFieldError([(fields, "must be later than start_after")])
        return self


WHEN = ("depends_on", "condition", "start_after", "deadline", "max_runtime", "preemptible")
"""Fields that say when a job runs."""
OF_THE_JOB = ("name", "experiment", "labels", "priority", *WHEN)
"""Fields that do not affect the training itself."""
