"""A cluster in memory, for tests: nothing runs; the test says what becomes of a submission."""

from __future__ import annotations

from dataclasses import dataclass, field

from vicreg_platform.cluster import (
    Bundle,
    Capacity,
    Submission,
    SubmissionState,
    SubmissionStatus,
)
from vicreg_platform.errors import ClusterUnavailable, SubmissionRefused


@dataclass
class FakeCluster:
    """Keeps what it was asked for; ``set`` moves a submission on."""

    nodes: tuple[Bundle, ...] = (Bundle(cpus=4, gpus=0),)
    reachable: bool = True
    refuses: str | None = None
    """Where set, every submission is refused with this text."""
    submissions: dict[str, Submission] = field(default_factory=dict)
    stops: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    _statuses: dict[str, SubmissionStatus] = field(default_factory=dict)

    def set(self, submission_id: str, state: SubmissionState, exit_code: int | None = None) -> None:
        """What the cluster says of a submission from now on."""
        self._statuses[submission_id] = SubmissionStatus(state, exit_code)

    def lose_everything(self) -> None:
        """A new Ray head: what the old one knew is gone."""
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
