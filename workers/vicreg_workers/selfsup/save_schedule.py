"""At the end of which epochs the state is saved."""

from __future__ import annotations

import time
from collections.abc import Callable

from vicreg_platform.specs.pretrain import Checkpoint
from vicreg_workers.selfsup.distributed import any_over_processes, rank
from vicreg_workers.selfsup.step_counter import StepCounter


class SaveSchedule:
    """Every so many epochs, but not more often than every so many seconds.

    Args:
        spec: when to save.
        clock: seconds from any moment on.
    """

    def __init__(self, spec: Checkpoint, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        self._saved: float | None = None

    def is_due(self, progress: StepCounter) -> bool:
        """Whether to save at the end of this epoch. Every worker calls it, and gets one answer."""
        if not progress.every_epochs(self._spec.every_epochs):
            return False
        if progress.step == progress.steps or self._spec.min_interval_seconds == 0:
            return True
        # The workers' clocks differ by how long each took to copy its state: rank 0's decides.
        return any_over_processes([rank() == 0 and not self._is_young()])[0]

    def saved(self) -> None:
        """Note that the state has been saved now."""
        self._saved = self._clock()

    def _is_young(self) -> bool:
        if self._saved is None:
            return False
        return self._clock() - self._saved < self._spec.min_interval_seconds
