"""A run's progress: written by its workers, read by the dispatcher and the API."""

from __future__ import annotations

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from vicreg_platform.contract.checkpoint import Count


class Finding(BaseModel):
    """Something wrong with a running training."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """What it is, such as ``worse_than_start`` or ``dimensional_collapse``."""
    text: str
    """Since when, how far, and what to change."""


class Progress(BaseModel):
    """How far a run has got."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    epoch: Count
    """Epochs finished; for a sweep, trials finished."""
    epochs: Count
    step: Count
    """Steps finished, over all epochs; for an evaluation, images processed; for a sweep, epochs
    trained over all trials."""
    steps: Count
    images_per_second: float
    """Over all workers; the two views of an image count once."""
    eta_seconds: float
    saved_at: AwareDatetime | None = None
    """When the state was last saved, by the clock of the node; null before 0.3.0."""
    kept_epoch: Count | None = None
    """The last epoch after which the encoder was kept to be evaluated."""
    resumed_at: Count | None = None
    """The step from which a pretraining's last processes resumed; 0 if they started it."""
    device: str | None = None
    """What a pretraining's first worker trains on: the name of its GPU, or ``CPU``."""
    peak_memory: Count | None = None
    """The most memory, in bytes, that it has taken so far: see ``vicreg_workers.device``."""
    findings: tuple[Finding, ...] = ()
    """What is wrong with it now."""


def read_progress(written: object) -> Progress | None:
    """The progress that was written as JSON, or as the data in it; None if it cannot be read."""
    try:
        if isinstance(written, str):
            return Progress.model_validate_json(written)
        return Progress.model_validate(written)
    except ValidationError:
        return None
