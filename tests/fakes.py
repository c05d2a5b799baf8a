"""A cluster and an MLflow server in memory, controlled by the test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vicreg_platform.cluster import (
    Capacity,
    Machine,
    Node,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.timeline import AttemptTimeline
from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.errors import (
    ClusterUnavailable,
    LogUnavailable,
    NotFound,
    SubmissionRefused,
    TrackingUnavailable,
)
from vicreg_platform.needs import Bundle
from vicreg_platform.tracking import RunReading, Tracking


@dataclass
class FakeCluster:
    """Records what it was asked to do; ``set`` decides the state of a submission."""

    nodes: tuple[Bundle, ...] = (Bundle(cpus=4, gpus=0),)
    reachable: bool = True
    refuses: str | None = None
    """If set, every submission is refused with this text."""
    submitted: dict[str, Submission] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    without_log: set[str] = field(default_factory=set)
    """Submissions whose log cannot be given: their node is gone."""
    _statuses: dict[str, SubmissionStatus] = field(default_factory=dict)

    def set(self, submission_id: str, state: SubmissionState, exit_code: int | None = None) -> None:
        """Set the state of a submission."""
        self._statuses[submission_id] = SubmissionStatus(state, exit_code)

    def lose_everything(self) -> None:
        """Replace the Ray head: the new one knows nothing."""
        self._statuses.clear()
        self.submitted.clear()

    def submit(self, submission: Submission) -> None:
        """See ``Cluster.submit``."""
        self._answer()
        if self.refuses is not None:
            raise SubmissionRefused(self.refuses)
        if submission.id not in self.submitted:
            self.submitted[submission.id] = submission
            self.set(submission.id, SubmissionState.PENDING)

    def submissions(self) -> dict[str, SubmissionStatus]:
        """See ``Cluster.submissions``."""
        self._answer()
        return dict(self._statuses)

    def stop(self, submission_id: str) -> None:
        """See ``Cluster.stop``."""
        self._answer()
        self.stops.append(submission_id)

    def machines(self) -> list[Node]:
        """See ``Cluster.machines``."""
        self._answer()
        nothing = Bundle(0, 0)
        placed = dict.fromkeys(self.submitted, nothing)
        return [
            Node(str(i), total, nothing, Machine(f"node-{i}"), placed)
            for i, total in enumerate(self.nodes)
        ]

    def log(self, submission_id: str) -> Iterator[bytes] | None:
        """See ``Cluster.log``."""
        self._answer()
        if submission_id not in self._statuses:
            return None
        if submission_id in self.without_log:
            raise LogUnavailable("its node is gone")
        return iter([self.logs.get(submission_id, "").encode()])

    def last_lines(self, submission_id: str, count: int) -> str:
        """See ``Cluster.last_lines``."""
        log = self.log(submission_id)
        if log is None:
            raise LogUnavailable("the fake cluster does not know it")
        return "\n".join(b"".join(log).decode().splitlines()[-count:])

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
        self.unwritable: set[str] = set()
        """Runs whose artifacts cannot be written."""
        self.metrics: dict[str, float] = {}
        """Of every run."""
        self.timeline: AttemptTimeline | None = None
        """Of every run."""
        self.progress: dict[str, Progress] = {}
        """By run."""
        self.labels: dict[str, dict[str, str]] = {}
        """By run, as they were last set."""
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

    def run_of_job(self, job_id: str, experiment: str) -> tuple[str, str] | None:
        self._answer()
        return (f"run-{job_id}", "1") if f"run-{job_id}" in self.runs else None

    def remove_duplicates(self, job_id: str, experiment: str, run_id: str) -> None:
        self._answer()

    def read(self, run_id: str) -> RunReading:
        self._check(run_id)
        return RunReading(self.progress.get(run_id), self.timeline, dict(self.metrics))

    def set_labels(self, run_id: str, labels: Mapping[str, str]) -> None:
        self._check(run_id)
        self.labels[run_id] = dict(labels)

    def trials(self, run_id: str) -> list[tuple[Trial, str, str]]:
        self._check(run_id)
        return [
            (trial, run, "1")
            for run, trial in self.tried.items()
            if self.parents.get(run) in (run_id, None)
        ]

    def begin_training(self, run_id: str, trial: Trial, seed: int) -> None:
        self._check(run_id)
        if seed == 0:
            self.tried.setdefault(run_id, trial)

    def store_trial(self, run_id: str, trial: Trial) -> None:
        self._answer()
        self.tried[run_id] = trial

    def cancel_trials(self, run_id: str) -> None:
        for trial, run, _ in self.trials(run_id):
            if trial.state is TrialState.RUNNING:
                self.tried[run] = trial.model_copy(update={"state": TrialState.CANCELLED})

    def store_log(self, run_id: str, attempt: int, log: Iterable[bytes]) -> None:
        self._check(run_id)
        if run_id in self.unwritable:
            raise TrackingUnavailable("the artifacts of this run cannot be written")
        self.logs[run_id, attempt] = b"".join(log).decode()

    def has_log(self, run_id: str, attempt: int) -> bool:
        self._check(run_id)
        return (run_id, attempt) in self.logs

    def log(self, run_id: str, attempt: int) -> Iterator[bytes]:
        if not self.has_log(run_id, attempt):
            raise NotFound(f"no log of attempt {attempt} was kept")
        return iter([self.logs[run_id, attempt].encode()])

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
