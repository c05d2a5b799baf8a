"""Whether a training makes the weights that it started from worse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STANDARD_ERRORS = 2.0
"""By which nearest neighbours must be worse than those of random weights."""


class StartWatch:
    """Compares each kNN accuracy with that of the start.

    Args:
        patience: measurements in a row below it, after which the training is worse than its start.
        from_weights: whether it starts from given weights. With random ones, accuracies count as
            below only by two standard errors of their difference: of labels that say nothing,
            either may be the larger.
    """

    def __init__(self, patience: int, from_weights: bool = True) -> None:
        self._patience = patience
        self._from_weights = from_weights
        self._start: float | None = None
        self._margin = 0.0
        self._below: list[int] = []

    @property
    def name(self) -> str:
        """The name of the finding."""
        return "worse_than_start" if self._from_weights else "worse_than_untrained"

    @property
    def begun(self) -> bool:
        """Whether the start has been measured."""
        return self._start is not None

    def begin(self, top1: float, queries: int = 1) -> None:
        """Record the accuracy before the first step, in [0, 1], and how many were classified."""
        self._start = top1
        if not self._from_weights:
            variance = 2 * top1 * (1 - top1) / max(1, queries)
            self._margin = STANDARD_ERRORS * variance**0.5

    def note(self, step: int, top1: float) -> str | None:
        """Record the accuracy after a step; return what is wrong, in words, if it is."""
        if self._start is None or top1 >= self._start - self._margin:
            self._below.clear()
            return None
        self._below.append(step)
        if len(self._below) < self._patience:
            return None
        if self._from_weights:
            start, advice = (
                "the weights it started from",
                "lower optimizer.base_lr or optimizer.layer_decay, or raise "
                "training.freeze_epochs or training.warmup_epochs",
            )
        else:
            start, advice = (
                "its random weights",
                "look at the views in pictures/views.png, and lower optimizer.base_lr or weaken "
                "the augmentation",
            )
        return (
            f"since step {self._below[0]} knn/top1 is below the {self._start:.3f} of {start}, at "
            f"step {step} it is {top1:.3f}: {advice}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The accuracy of the start and the steps below it; nothing if there is no start."""
        if self._start is None:
            return {}
        return {
            "start_top1": self._start,
            "start_margin": self._margin,
            "below_start": list(self._below),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._start = state.get("start_top1")
        self._margin = state.get("start_margin", 0.0)
        self._below = list(state.get("below_start", ()))
