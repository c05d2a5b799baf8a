"""What the training loop needs from its surroundings.

The loop knows neither Ray nor MLflow. It is given a context; ``NullContext`` runs it without a
cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from vicreg_workers.selfsup.capture import Capture

logger = logging.getLogger(__name__)

Moment = Literal["network_built", "first_step", "last_step"]


@dataclass(frozen=True)
class State:
    """The content of a checkpoint: ``shared`` is equal on all workers, ``own`` is per worker.

    The loop's hold the tensors that it trains, not copies.
    """

    step: int
    """Optimiser steps done."""
    shared: dict[str, Any]
    own: dict[str, Any]
    workers: int = 1
    """Number of workers that saved it."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is."""

    epoch: int
    """Epochs finished."""
    epochs: int
    step: int
    """Steps finished, over all epochs."""
    steps: int
    images_per_second: float
    """Over all workers; the two views of an image count once."""
    eta_seconds: float


class Context(Protocol):
    """What the loop calls. Metrics, progress, figures and warnings count on rank 0 only."""

    device: torch.device
    loaders: int
    """Processes that each worker may use to read images."""

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at ``step``. Returns at once."""

    def progress(self, progress: TrainingProgress) -> None:
        """Record how far the training is. Returns at once."""

    def reached(self, moment: Moment) -> None:
        """Record that these processes have reached a moment now. Returns at once."""

    def figure(self, path: str, png: bytes) -> None:
        """Store a figure with the run, under ``path``. Returns at once."""

    def warn(self, message: str) -> None:
        """Warn the user of something that does not stop the training."""

    def keep_encoder(self, backbone: nn.Module, epoch: int, step: int) -> None:
        """Keep the backbone as it is after an epoch, to be evaluated while training continues."""

    def finding(self, name: str, text: str | None) -> None:
        """Say what is wrong with the training under a name, or that it no longer is (None)."""

    def capture(self, take: Callable[[], Capture | None]) -> str | None:
        """Keep what repeats a step that went wrong. Every worker calls it. It does not raise.

        Args:
            take: takes it, of every worker's part; returns None on all but the first.

        Returns:
            The same on every worker: how to repeat the step, for the user; None if nothing is kept.
        """

    def will_save(self, state: State) -> None:
        """Told after the first step what states will be like, to make room for them.

        Returns at once. Every worker calls it.
        """

    def save(self, state: State) -> None:
        """Begin to save ``state`` as it is now. Every worker calls it.

        It returns when the state is copied: what ``state`` holds may change from then on. The
        checkpoint is complete when ``finish_saving`` or the next ``save`` returns.
        """

    def finish_saving(self) -> None:
        """Wait until what was saved last is complete. Every worker calls it."""

    def restore(self) -> State | None:
        """Return the newest state, or None if there is none. Every worker calls it."""

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Called by every worker after ``epoch`` of ``epochs``. May raise to stop the training."""

    def stopping(self) -> bool:
        """Whether this worker has been asked to save its state and stop."""


class NullContext:
    """A context that keeps nothing."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.loaders = 0

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Discard the metrics."""

    def progress(self, progress: TrainingProgress) -> None:
        """Discard the progress."""

    def reached(self, moment: Moment) -> None:
        """Discard the moment."""

    def figure(self, path: str, png: bytes) -> None:
        """Discard the figure."""

    def warn(self, message: str) -> None:
        """Log the warning."""
        logger.warning(message)

    def keep_encoder(self, backbone: nn.Module, epoch: int, step: int) -> None:
        """Do nothing."""

    def finding(self, name: str, text: str | None) -> None:
        """Log what is wrong."""
        if text is not None:
            logger.warning("%s: %s", name, text)

    def capture(self, take: Callable[[], Capture | None]) -> str | None:
        """Return None: nothing is kept."""
        return None

    def will_save(self, state: State) -> None:
        """Do nothing."""

    def save(self, state: State) -> None:
        """Discard the state."""

    def finish_saving(self) -> None:
        """Do nothing."""

    def restore(self) -> State | None:
        """Return None: nothing is kept."""
        return None

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Do nothing."""

    def stopping(self) -> bool:
        """Return False."""
        return False
