"""The cluster as the control plane sees it: something that runs submissions."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from vicreg_platform.needs import Bundle, Needs, amount

_NODES = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Capacity:
    """What the cluster has, and what of it is in use."""

    nodes: tuple[Bundle, ...]
    """Those that are up; for a cluster that scales, those it can grow to."""
    used: Bundle
    """Over all nodes."""
    free: tuple[Bundle, ...] | None = None
    """What is free of each node; None if that is not known."""
    placed: tuple[dict[str, Bundle], ...] | None = None
    """What each submission occupies of each node, as in ``Node``; None if that is not known."""

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

    def limited(self, needs: Needs) -> Needs:
        """The needs with no more groups at once than the empty cluster holds, but at least one."""
        groups = min(needs.groups, self.bundles(needs.bundle) // needs.count)
        return replace(needs, groups=max(1, groups))

    def __str__(self) -> str:
        total = self.total
        text = f"{len(self.nodes)} node(s) with {amount(total.cpus, 'CPU')}"
        return f"{text} and {amount(total.gpus, 'GPU')}"


@dataclass(frozen=True)
class Device:
    """A GPU of a node, as its driver sees it."""

    name: str
    utilization: float | None
    """In percent."""
    memory_used: int | None
    memory_total: int | None
    """In bytes, as is the one before."""


@dataclass(frozen=True)
class Machine:
    """What a node's agent says of it; None of what it does not say."""

    name: str
    cpu_percent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    """In bytes, as is the one before."""
    devices: tuple[Device, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node that is up, and what is on it."""

    id: str
    total: Bundle
    used: Bundle
    machine: Machine
    placed: dict[str, Bundle]
    """What each submission occupies of it; nothing for one whose driver does all of the work."""


def nodes_of(text: str) -> tuple[Bundle, ...]:
    """Nodes written as ``COUNTxCPUS`` or ``COUNTxCPUSxGPUS``, with commas: ``8x4,2x16x1``.

    Raises:
        ValueError: the text has another form.
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
    """Chosen by the caller: a submission that is repeated runs once."""
    arguments: tuple[str, ...]
    """The command line."""
    driver: Bundle
    """Reserved for the process itself; the workers that it starts reserve their own."""
    metadata: dict[str, str] = field(default_factory=dict)


class SubmissionState(enum.StrEnum):
    """The state of a submission."""

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

    @property
    def live(self) -> bool:
        """Whether its process runs, or is still to run."""
        return self.state in (SubmissionState.PENDING, SubmissionState.RUNNING)


class Cluster(Protocol):
    """Runs submissions. Every method raises ClusterUnavailable if the head is unreachable."""

    def submit(self, submission: Submission) -> None:
        """Run a submission; does nothing if its id is known already.

        Raises:
            SubmissionRefused: the cluster does not accept it.
        """

    def submissions(self) -> dict[str, SubmissionStatus]:
        """All submissions that the cluster knows, by their ids."""

    def stop(self, submission_id: str) -> None:
        """Ask the cluster to stop a submission; it takes a while, and may need asking again."""

    def log(self, submission_id: str) -> Iterator[bytes] | None:
        """All that the process has printed, in pieces; None if the cluster does not know it.

        Raises:
            LogUnavailable: the cluster cannot give it, for example because its node is gone.
        """

    def last_lines(self, submission_id: str, count: int) -> str:
        """The last ``count`` lines that the process has printed.

        Raises:
            LogUnavailable: the cluster cannot give them.
        """

    def capacity(self) -> Capacity:
        """What the cluster has, and what of it is in use."""

    def machines(self) -> list[Node]:
        """The machines that are up, by name."""


def _times(node: Bundle, bundle: Bundle) -> int:
    counts = [
        int(has // needs)
        for has, needs in ((node.cpus, bundle.cpus), (node.gpus, bundle.gpus))
        if needs
    ]
    return min(counts, default=1)
