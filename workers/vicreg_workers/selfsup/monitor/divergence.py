"""Detects diverged training: non-finite losses and collapsed embeddings.

Nothing waits for the device before ``problem`` is called: faults are recorded in tensors, and an
optimiser that is given ``found_inf`` changes nothing from the first bad step on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOW_STD = 0.1
"""A dimension below this carries little information: the hinge of the loss is at 1."""


@dataclass(frozen=True)
class NotFinite:
    """A step whose loss or gradient was not finite. As text, it is for the user."""

    step: int
    """Its number, from 1."""
    values: dict[str, float]
    """``loss`` and its terms by name, and ``gradient``: the norm of all gradients."""

    def __str__(self) -> str:
        terms = {
            name: value for name, value in self.values.items() if name not in ("loss", "gradient")
        }
        wrong = [name for name in (*terms, "loss", "gradient") if not _finite(self.values[name])]
        listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        return (
            f"the {wrong[0]} is {self.values[wrong[0]]} at step {self.step} ({listed}, norm of the "
            f"gradient {self.values['gradient']:.4g}); the weights are those of the step before: "
            "lower optimizer.base_lr, or lengthen training.warmup_epochs"
        )


class FiniteWatch:
    """Records the first step whose loss or gradient is not finite.

    Args:
        terms: names of the loss's terms, in order, ``loss`` first.
        device: where the tensors are.
    """

    def __init__(self, terms: tuple[str, ...], device: torch.device) -> None:
        self._terms = terms
        self._step = torch.full((), -1, device=device, dtype=torch.long)
        self._values = torch.zeros(len(terms) + 1, device=device)

    def note(self, step: int, terms: Tensor, gradient_norm: Tensor) -> Tensor:
        """Record a step, before its update.

        Args:
            step: its number, from 1.
            terms: the loss and its terms, ``[terms]``.
            gradient_norm: of all gradients, a scalar.

        Returns:
            The optimiser's ``found_inf``: 1.0 from the first bad step on, else 0.0.
        """
        values = torch.cat([terms, gradient_norm.view(1)])
        bad = ~(torch.isfinite(values[0]) & torch.isfinite(values[-1]))
        newly = bad & (self._step < 0)
        self._step = torch.where(newly, step, self._step)
        self._values = torch.where(newly, values, self._values)
        return self.found()

    def found(self) -> Tensor:
        """1.0 from the first bad step on, else 0.0."""
        return (self._step >= 0).float()

    def problem(self) -> NotFinite | None:
        """The first bad step, or None. Waits for the device."""
        step = int(self._step)
        if step < 0:
            return None
        names = (*self._terms, "gradient")
        return NotFinite(step, dict(zip(names, self._values.tolist(), strict=True)))


class CollapseWatch:
    """Detects embeddings whose spread stays low.

    Args:
        threshold: mean standard deviation below which embeddings have collapsed; 0 for never.
        patience: steps for which it must stay there.
    """

    def __init__(self, threshold: float, patience: int) -> None:
        self._threshold = threshold
        self._patience = patience
        self._low_since: int | None = None

    def note(self, step: int, std_mean: float) -> str | None:
        """Record the mean standard deviation at ``step``; return the problem if it has lasted."""
        if std_mean >= self._threshold:
            self._low_since = None
            return None
        if self._low_since is None:
            self._low_since = step
        if step - self._low_since < self._patience:
            return None
        return (
            f"the embeddings have collapsed: since step {self._low_since} the mean standard "
            f"deviation of their dimensions is below {self._threshold:g} (watch.collapse_std), at "
            f"step {step} it is {std_mean:.3g}: lower optimizer.base_lr, or raise method.variance"
        )

    def state_dict(self) -> dict[str, Any]:
        """The step since which the spread is low, or None."""
        return {"low_since": self._low_since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._low_since = state["low_since"]


def spread(std: Tensor) -> dict[str, float]:
    """Metrics of the standard deviations ``[D]`` of the embedding's dimensions."""
    values = torch.stack([std.mean(), std.min(), (std < LOW_STD).float().mean()]).tolist()
    names: Iterable[str] = ("std_mean", "std_min", "std_low_share")
    return {f"embedding/{name}": value for name, value in zip(names, values, strict=True)}


def _finite(value: float) -> bool:
    return value - value == 0.0
