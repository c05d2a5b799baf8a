"""A cluster and an MLflow server in memory, controlled by the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vicreg_platform.cluster import (
    Capacity,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.contract.trial import Trial
from vicreg_platform.errors import (
    ClusterUnavailable,
    NotFound,
    SubmissionRefused,
    TrackingUnavailable,
)
from vicreg_platform.specs.needs import Bundle
from vicreg_platform.tracking import RunReading, Tracking


@dataclass
class FakeCluster:
    """Records what it was asked to do; ``set`` decides the state of a submission."""

    nodes: tuple[Bundle, ...] = (Bundle(cpus=4, gpus=0),)
    reachable: bool = True
    refuses: str | None = None
    """If set, every submission is refused with this text."""
    submissions: dict[str, Submission] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    _statuses: dict[str, SubmissionStatus] = field(default_factory=dict)

    def set(self, submission_id: str, state: SubmissionState, exit_code: int | None = None) -> None:
        """Set the state of a submission."""
        self._statuses[submission_id] = SubmissionStatus(state, exit_code)

    def lose_everything(self) -> None:
        """Replace the Ray head: the new one knows nothing."""
        self._statuses.clear()
        self.submissions.clear()

    def submit(self, submission: Submission) -> None:
        """See ``Cluster.submit``."""
        self._answer()
        if self.refuses is not None:
            raise SubmissionRefused(self.refuses)
        if submission.id not in self.submissions:
            self.submissions[submission.id] = submission
            self.set(submission.id, SubmissionState.PENDING)

    def status(self, submission_id: str) -> SubmissionStatus | None:
        """See ``Cluster.status``."""
        self._answer()
        return self._statuses.get(submission_id)

    def stop(self, submission_id: str) -> None:
        """See ``Cluster.stop``."""
        self._answer()
        self.stops.append(submission_id)

    def log(self, submission_id: str) -> str | None:
        """See ``Cluster.log``."""
        self._answer()
        if submission_id not in self._statuses:
            return None
        return self.logs.get(submission_id, "")

    def capacity(self) -> Capacity:
        """See ``Cluster.capacity``: nothing counts as used."""
        self._answer()
        return Capacity(self.nodes, Bundle(0, 0))

    def _answer(self) -> None:
        if not self.reachable:
            raise ClusterUnavailable("the fake cluster was told not to answer")


class FakeTracking(Tracking):
    """Runs in memory; ``tests/integration/test_tracking.py`` holds it to what MLflow does."""

    def __init__(self) -> None:
        self.reachable = True
        self.gone: str | None = None
        """A run that was deleted."""
        self.runs: dict[str, str | None] = {}
        """Runs with their final status; None while they are open."""
        self.ended: dict[str, datetime | None] = {}
        self.parents: dict[str, str | None] = {}
        self.logs: dict[tuple[str, int], str] = {}
        self.metrics: dict[str, float] = {}
        """Of every run."""
        self.tried: dict[str, Trial] = {}
        """Trials by their run; one whose run has no parent is of every sweep."""

    def ping(self) -> None:
        self._answer()

    def ensure_run(
        self, job_id: str, name: str, experiment: str, spec: dict[str, Any], parent: str | None
    ) -> tuple[str, str]:
        self._answer()
        self.runs.setdefault(f"run-{job_id}", None)
        self.parents[f"run-{job_id}"] = parent
        return f"run-{job_id}", "1"

    def run_of_job(self, job_id: str, experiment: str) -> str | None:
        self._answer()
        return f"run-{job_id}" if f"run-{job_id}" in self.runs else None

    def read(self, run_id: str) -> RunReading:
        self._check(run_id)
        return RunReading(None, dict(self.metrics))

    def trials(self, run_id: str) -> list[tuple[Trial, str, str]]:
        self._check(run_id)
        return [
            (trial, run, "1")
            for run, trial in self.tried.items()
            if self.parents.get(run) in (run_id, None)
        ]

    def begin_trial(self, run_id: str, trial: Trial) -> None:
        self._check(run_id)
        self.tried.setdefault(run_id, trial)

    def store_trial(self, run_id: str, trial: Trial) -> None:
        self._answer()
        self.tried[run_id] = trial

    def store_log(self, run_id: str, attempt: int, log: str) -> None:
        self._check(run_id)
        self.logs[run_id, attempt] = log

    def has_log(self, run_id: str, attempt: int) -> bool:
        self._check(run_id)
        return (run_id, attempt) in self.logs

    def log(self, run_id: str, attempt: int) -> str:
        if not self.has_log(run_id, attempt):
            raise NotFound(f"no log of attempt {attempt} was kept")
        return self.logs[run_id, attempt]

    def finish(self, run_id: str, status: str, ended: datetime | None = None) -> None:
        self._check(run_id)
        self.runs[run_id], self.ended[run_id] = status, ended

    def _check(self, run_id: str) -> None:
        self._answer()
        if run_id not in self.runs or run_id == self.gone:
            raise NotFound("there is no such run")

    def _answer(self) -> None:
        if not self.reachable:
            raise TrackingUnavailable("MLflow was told not to answer")
