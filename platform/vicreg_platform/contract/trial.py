"""A sweep's trial. The sweep's driver writes it to the trial's run, where others read it."""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


def job_id_of_trial(sweep: str, number: int) -> str:
    """The id under which a sweep's trial has its run and its folder of the storage."""
    return f"{sweep}/trials/{number:05d}"


class TrialState(enum.StrEnum):
    """The state of a trial."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """Trained to its last epoch."""
    STOPPED = "stopped"
    """Stopped early by the sweep's scheduler."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Cancelled with its sweep."""


class Trial(BaseModel):
    """One configuration of a sweep."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    number: int
    """Counted from 0, in the order in which trials start."""
    state: TrialState = TrialState.RUNNING
    parameters: dict[str, Any]
    """Values by the dotted paths of the fields in the sweep's base."""
    objective: float | None = None
    """The best or last value of the objective, as the sweep's spec asks; null before the first."""
    epoch: int = 0
    """Epochs trained."""
    epochs: int
    failure: str | None = None
    """The failure class."""
    reason: str | None = None
    """Why the trial failed."""


def read_trial(written: str | None) -> Trial | None:
    """The trial that was written as JSON; None if it cannot be read."""
    try:
        return None if written is None else Trial.model_validate_json(written)
    except ValidationError:
        return None


def ranked(trials: list[Trial], mode: str) -> list[Trial]:
    """Sort trials from best to worst. Those without an objective come last, by number.

    Args:
        trials: in any order.
        mode: ``max`` or ``min``.
    """
    sign = -1.0 if mode == "max" else 1.0

    def key(trial: Trial) -> tuple[bool, float, int]:
        value = trial.objective
        return value is None, 0.0 if value is None else sign * value, trial.number

    return sorted(trials, key=key)
