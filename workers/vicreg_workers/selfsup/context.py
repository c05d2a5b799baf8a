"""What a training loop may do to the world around it.

The loop knows no Ray and no MLflow: it is handed a context. ``NullContext`` runs it without a
cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vicreg_platform.contract.progress import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds: ``shared`` is the same on every worker, ``own`` is not."""

    step: int
    """Optimiser steps done."""
    shared: dict[str, Any]
    own: dict[str, Any]
    workers: int = 1
    """Processes that made it."""


class Context(Protocol):
    """What a training loop may do. Metrics, progress, pictures and warnings count on rank 0."""

    device: torch.device
    loaders: int
    """Processes that each worker may use to read images."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics at ``step``; returns at once."""

    def progress(self, progress: Progress) -> None:
        """Say how far the run is; returns at once."""

    def picture(self, path: str, png: bytes) -> None:
        """Keep a picture with the run, under ``path``; returns at once."""

    def warn(self, message: str) -> None:
        """Tell the user something that does not stop the run."""

    def save(self, state: State) -> None:
        """Keep ``state`` safely; called by every worker, returns when it is safe."""

    def restore(self) -> State | None:
        """The newest state kept, or None at the beginning; called by every worker."""

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """``epoch`` of ``epochs`` is done; called by every worker. May end the training."""

    def stopping(self) -> bool:
        """Whether this worker has been asked to end: what it has done is then to be saved."""


class NullContext:
    """A context that keeps nothing."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.loaders = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Forget the metrics."""

    def progress(self, progress: Progress) -> None:
        """Forget the progress."""

    def picture(self, path: str, png: bytes) -> None:
        """Forget the picture."""

    def warn(self, message: str) -> None:
        """Log the warning."""
        logger.warning(message)

    def save(self, state: State) -> None:
        """Forget the state."""

    def restore(self) -> State | None:
        """Nothing was kept."""
        return None

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Nobody waits for it."""

    def stopping(self) -> bool:
        """Nobody asks."""
        return False
