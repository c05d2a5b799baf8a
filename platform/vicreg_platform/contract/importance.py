"""How much each parameter of a sweep matters: written by its driver, read by the API."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Importance(BaseModel):
    """The importance of a sweep's parameters for its objective."""

    model_config = ConfigDict(use_attribute_docstrings=True, allow_inf_nan=False)

    method: str = "fANOVA"
    """How it was computed: functional ANOVA (Hutter et al. 2014), by Optuna."""
    trials: int
    """How many trials it was computed from: those trained to their last epoch, with every seed."""
    items: dict[str, float] = {}
    """The share of the objective's variance that each parameter explains; they sum to 1."""
    reason: str | None = None
    """Why it was not computed."""


def read_importance(written: str | None) -> Importance | None:
    """The importance that was written as JSON; None if it cannot be read."""
    try:
        return None if written is None else Importance.model_validate_json(written)
    except ValidationError:
        return None
