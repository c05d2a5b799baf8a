"""The cluster as the control plane sees it: something that runs submissions."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import Protocol

_NODES = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Bundle:
    """What one process needs, all on one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Needs:
    """What a job needs at once: ``count`` bundles, which may lie on different nodes."""

    bundle: Bundle
    count: int

    @property
    def cpus(self) -> float:
        """Over all bundles."""
        return self.bundle.cpus * self.count

    @property
    def gpus(self) -> float:
        """Over all bundles."""
        return self.bundle.gpus * self.count

    def __str__(self) -> str:
        each = _amount(self.bundle.cpus, "CPU")
        if self.bundle.gpus:
            each += f" and {_amount(self.bundle.gpus, 'GPU')}"
        return each if self.count == 1 else f"{self.count} × {each}"


@dataclass(frozen=True)
class Capacity:
    """What the cluster has, and what of it is in use."""

    nodes: tuple[Bundle, ...]
    """Those that are there; of a cluster that scales, those that there can be."""
    used: Bundle

    @property
    def total(self) -> Bundle:
        """Over all nodes."""
        return Bundle(sum(n.cpus for n in self.nodes), sum(n.gpus for n in self.nodes))

    def bundles(self, bundle: Bundle) -> int:
        """How many of ``bundle`` the empty cluster holds."""
        return sum(_times(node, bundle) for node in self.nodes)

    def can_ever_hold(self, needs: Needs) -> bool:
        """Whether the job would fit on the empty cluster."""
        return self.bundles(needs.bundle) >= needs.count

    def __str__(self) -> str:
        total = self.total
        text = f"{len(self.nodes)} node(s) with {_amount(total.cpus, 'CPU')}"
        return f"{text} and {_amount(total.gpus, 'GPU')}"


def nodes_of(text: str) -> tuple[Bundle, ...]:
    """Nodes written as ``COUNTxCPUS`` or ``COUNTxCPUSxGPUS``, with commas: ``8x4,2x16x1``.

    Raises:
        ValueError: the text is written otherwise.
    """
    nodes: list[Bundle] = []
    for group in text.split(","):
        match = _NODES.fullmatch(group.strip())
        if match is None:
            raise ValueError(
                f"'{group.strip()}' is not COUNTxCPUS or COUNTxCPUSxGPUS, such as 8x4 or 2x16x1"
            )
        count, cpus, gpus = (int(number or 0) for number in match.groups())
        nodes += [Bundle(cpus, gpus)] * count
    return tuple(nodes)


@dataclass(frozen=True)
class Submission:
    """A process for the cluster to run."""

    id: str
    """Chosen by the caller: the same submission made twice runs once."""
    arguments: tuple[str, ...]
    """The command line."""
    driver: Bundle
    """What is reserved for the process itself; the workers it starts reserve their own."""
    metadata: dict[str, str] = field(default_factory=dict)


class SubmissionState(enum.StrEnum):
    """Where a submission is."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class SubmissionStatus:
    """What the cluster says of a submission."""

    state: SubmissionState
    exit_code: int | None = None
    message: str | None = None


class Cluster(Protocol):
    """Runs submissions. Every method raises ClusterUnavailable where it gets no answer."""

    def submit(self, submission: Submission) -> None:
        """Run a submission; one whose id is known already is left as it is.

        Raises:
            SubmissionRefused: the cluster will not take it.
        """

    def status(self, submission_id: str) -> SubmissionStatus | None:
        """Where the submission is; None where the cluster does not know it."""

    def stop(self, submission_id: str) -> None:
        """Ask the cluster to end a submission; it may take a while, and may need asking again."""

    def log(self, submission_id: str) -> str | None:
        """All that the process has printed; None where the cluster does not know it."""

    def capacity(self) -> Capacity:
        """What the cluster has and what is in use."""


def _times(node: Bundle, bundle: Bundle) -> int:
    counts = [
        int(has // needs)
        for has, needs in ((node.cpus, bundle.cpus), (node.gpus, bundle.gpus))
        if needs
    ]
    return min(counts, default=1)


def _amount(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
