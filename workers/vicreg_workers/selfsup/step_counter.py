"""Counts steps and epochs, and measures the speed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from vicreg_workers.selfsup.context import TrainingProgress


class StepCounter:
    """Counts the steps and epochs of a training.

    Args:
        steps_per_epoch: at least 1.
        epochs: of the whole training.
        batch_size: images per step over all workers.
    """

    def __init__(self, steps_per_epoch: int, epochs: int, batch_size: int) -> None:
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps_per_epoch * epochs
        self.step = 0
        """Steps done."""
        self.epochs_ended = 0
        """Epochs trained and measured. A stop can come between the two."""
        self._batch_size = batch_size
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure the speed from now on."""
        self._since, self._timed = time.perf_counter(), 0

    def step_done(self) -> None:
        """Count a step."""
        self.step += 1
        self._timed += 1

    def steps_into_epoch(self) -> int:
        """Steps done of the first epoch that has not ended, in [0, steps_per_epoch]."""
        return self.step - self.epochs_ended * self.steps_per_epoch

    def every_steps(self, every: int) -> bool:
        """Whether the last step is a multiple of ``every`` or the last of its epoch."""
        return self.step % every == 0 or self.step % self.steps_per_epoch == 0

    def every_epochs(self, every: int) -> bool:
        """Whether what happens every ``every`` epochs (0: never) happens after this epoch.

        It always happens after the last one.
        """
        epoch = self.step // self.steps_per_epoch
        return every > 0 and (epoch % every == 0 or epoch == self.epochs)

    def read(self) -> TrainingProgress:
        """The progress, with the speed since the last reading."""
        now = time.perf_counter()
        speed = max(self._timed * self._batch_size / max(now - self._since, 1e-9), 1e-9)
        self._since, self._timed = now, 0
        return TrainingProgress(
            epoch=self.step // self.steps_per_epoch,
            epochs=self.epochs,
            step=self.step,
            steps=self.steps,
            images_per_second=speed,
            eta_seconds=(self.steps - self.step) * self._batch_size / speed,
        )

    def state_dict(self) -> dict[str, Any]:
        """The steps and epochs done."""
        return {"step": self.step, "epochs_ended": self.epochs_ended}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.step = state["step"]
        # Checkpoints of version 0.2.0 do not hold it.
        self.epochs_ended = state.get("epochs_ended", self.step // self.steps_per_epoch)
