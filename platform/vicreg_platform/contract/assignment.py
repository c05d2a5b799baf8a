"""What the dispatcher passes to a driver."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from vicreg_platform.specs import Spec


class Assignment(BaseModel):
    """One attempt of a job: all that its driver needs to know, passed as its one argument."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    attempt: int
    spec: Spec
    run_id: str | None = None
    """The MLflow run of the job, kept across attempts; the first attempt creates it."""
    encoder_run_id: str | None = None
    """The run with the encoder of an evaluation ``{job: …}``."""
    extended_run_id: str | None = None
    """Of a sweep: the run of the one that it extends."""
    resume_from: tuple[str, ...] = ()
    """The jobs whose checkpoints to resume from if this one has none: the one that it retries, the
    one that that one retried, and so on."""
    objective: str | None = None
    """Of a trial: the metric that it reports at the end of each epoch."""
    workers: int | None = None
    """Of a pretraining: how many to train with. Default: as many as its spec asks for."""
    concurrency: int = 1
    """Of a sweep: how many trainings to run at once."""
    warm_start: bool = True
    """Whether its processes may be forks of their nodes' warm processes."""
    tracking_uri: str
    storage: str
    """Where checkpoints are stored: a path or an fsspec URL that every worker reaches."""
    data_root: str

    @property
    def worker_count(self) -> int:
        """How many workers train or evaluate."""
        return self.workers or self.spec.needs().count
