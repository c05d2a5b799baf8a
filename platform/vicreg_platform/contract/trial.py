"""A sweep's trial. The sweep's driver writes it to the trial's run, where others read it."""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


def job_id_of_trial(sweep: str, number: int, seed: int = 0) -> str:
    """The id under which a training of a trial has its run and its folder of the storage.

    Args:
        sweep: its job id.
        number: the trial's.
        seed: which of the trial's seeds, from 0.
    """
    return f"{sweep}/trials/{name_of_training(number, seed)}"


def name_of_training(number: int, seed: int) -> str:
    """A trial's number, and the seed if it is not the first: ``00007``, ``00007-1``."""
    return f"{number:05d}-{seed}" if seed else f"{number:05d}"


class TrialState(enum.StrEnum):
    """The state of a trial."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """Trained to its last epoch, with every seed."""
    STOPPED = "stopped"
    """Stopped early by the sweep's scheduler."""
    FAILED = "failed"
    """With one of its seeds or more."""
    CANCELLED = "cancelled"
    """Cancelled with its sweep."""


class Trial(BaseModel):
    """One configuration of a sweep, trained with one seed or several."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    number: int
    """Counted from 0, in the order in which trials start."""
    state: TrialState = TrialState.RUNNING
    parameters: dict[str, Any]
    """Values by the dotted paths of the fields in the sweep's base."""
    objective: float | None = None
    """The best or last value of the objective, as the sweep's spec asks, and the mean of
    ``values`` if there are several seeds; null before the first value, and if one of several
    seeds has failed."""
    values: tuple[float, ...] = ()
    """The objective of each seed, by the end of ``epoch``; those that have no value yet are left
    out."""
    std: float | None = None
    """The standard deviation of ``values`` (of a sample: n - 1); null if there are fewer than two.
    """
    epoch: int = 0
    """Epochs trained, with every seed that has reached the end of one."""
    epochs: int
    failure: str | None = None
    """The failure class."""
    reason: str | None = None
    """Why the trial failed, and with which seed if there are several."""


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
