"""How far a run is: written by its workers, read by everyone."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Progress(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    epoch: int
    """Epochs finished; for a sweep, trials ended."""
    epochs: int
    step: int
    """Steps finished, over all epochs; for an evaluation, images passed; for a sweep, epochs
    trained over all trials."""
    steps: int
    images_per_second: float
    """Over all workers; the two views of an image count once."""
    eta_seconds: float
