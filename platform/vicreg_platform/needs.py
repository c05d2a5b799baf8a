"""What a job occupies on the cluster while it runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bundle:
    """CPUs and GPUs on one node: what a process needs, or what a node has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Needs:
    """What a job needs: ``groups`` times ``count`` bundles, which may lie on different nodes."""

    bundle: Bundle
    count: int
    """Bundles that must be there at once: the workers of a training."""
    groups: int = 1
    """Trainings at once, at most: those of a sweep. One is enough to run."""

    @property
    def bundles(self) -> int:
        """Over all groups."""
        return self.count * self.groups

    @property
    def cpus(self) -> float:
        """Over all bundles."""
        return self.bundle.cpus * self.bundles

    @property
    def gpus(self) -> float:
        """Over all bundles."""
        return self.bundle.gpus * self.bundles

    def __str__(self) -> str:
        each = amount(self.bundle.cpus, "CPU")
        if self.bundle.gpus:
            each += f" and {amount(self.bundle.gpus, 'GPU')}"
        return each if self.bundles == 1 else f"{self.bundles} × {each}"


def amount(number: float, unit: str) -> str:
    """A number of things: ``1 CPU``, ``2 CPUs``."""
    return f"{number:g} {unit}{'' if number == 1 else 's'}"
