"""The images that a training skips because they cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vicreg_workers.selfsup.distributed import gather_objects


class CorruptImages:
    """Collects the indices of unreadable images over all workers."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        self._skipped: set[int] = set()

    def __len__(self) -> int:
        """Images found on any worker, up to the last ``gather``."""
        return len(self._known)

    def skipped(self, indices: Iterable[int]) -> None:
        """Add images that this worker has skipped."""
        self._skipped.update(indices)

    def gather(self) -> list[int]:
        """The images found since the last call, on any worker. Every worker calls it."""
        everywhere = {index for skipped in gather_objects(self._skipped) for index in skipped}
        new = sorted(everywhere - self._known)
        self._known |= everywhere
        self._skipped.clear()
        return new

    def state_dict(self) -> dict[str, Any]:
        """The images gathered: the same on every worker."""
        return {"corrupt": sorted(self._known)}

    def own_state_dict(self) -> dict[str, Any]:
        """The images that this worker has skipped since the last ``gather``."""
        return {"skipped": sorted(self._skipped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` and ``own_state_dict`` returned."""
        self._known = set(state["corrupt"])
        self._skipped = set(state["skipped"])
