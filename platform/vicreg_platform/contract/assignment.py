"""What the dispatcher passes to a driver, and how the driver answers."""

from __future__ import annotations

import enum

from pydantic import BaseModel, ConfigDict

from vicreg_platform.specs import Spec


class FailureClass(enum.StrEnum):
    """Why a job failed; only ``infrastructure`` is retried."""

    INFRASTRUCTURE = "infrastructure"
    USER = "user"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    """Decided by the dispatcher, which holds the clock; no driver reports it."""

    @property
    def exit_code(self) -> int:
        """The exit code by which a driver reports this class."""
        return _EXIT_CODES[self]

    @classmethod
    def of_exit_code(cls, code: int | None) -> FailureClass:
        """The class of an exit code; any code that a driver does not choose means it was killed."""
        return next(
            (known for known, own in _EXIT_CODES.items() if own == code), cls.INFRASTRUCTURE
        )


_EXIT_CODES = {
    FailureClass.USER: 64,
    FailureClass.DIVERGED: 65,
    FailureClass.OUT_OF_MEMORY: 66,
    FailureClass.INFRASTRUCTURE: 67,
}

FAILURE_LINE = "vicreg failure: "
"""The last line of a failed driver's log begins with this; the reason follows."""


class Assignment(BaseModel):
    """One attempt of a job: all that its driver needs to know, passed as its one argument."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    attempt: int
    spec: Spec
    run_id: str
    """The MLflow run of the job, kept across attempts."""
    encoder_run_id: str | None = None
    """The run with the encoder of an evaluation ``{job: …}``."""
    resume_from: str | None = None
    """The job whose checkpoints to resume from if this one has none: the one it retries."""
    objective: str | None = None
    """Of a trial: the metric that it reports at the end of each epoch."""
    concurrency: int = 1
    """Of a sweep: how many trials to run at once."""
    tracking_uri: str
    storage: str
    """Where checkpoints are stored: a path or an fsspec URL that every worker reaches."""
    data_root: str
