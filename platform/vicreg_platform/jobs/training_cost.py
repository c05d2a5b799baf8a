"""What a pretraining would take, as measured in an earlier run whose steps cost the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vicreg_platform.contract.progress import Progress, read_progress
from vicreg_platform.jobs.schemas import CostBasis, TrainingCost, stored_timeline
from vicreg_platform.specs import PretrainSpec
from vicreg_platform.specs.stored import read_spec

if TYPE_CHECKING:
    from vicreg_platform.jobs.tables import Job

_DECIDE = {
    *("method", "backbone", "expander", "branches", "data", "augmentation"),
    *("optimizer", "training", "resources"),
}
"""The sections of a spec that decide what a step costs."""
_DO_NOT_DECIDE = {
    # All terms of a loss are computed, whatever their coefficients.
    "method": (
        *("invariance", "variance", "covariance", "alpha"),
        *("redundancy", "scale", "temperature"),
    ),
    "optimizer": ("preset", "base_lr", "weight_decay", "momentum", "eta", "clip"),
    "training": ("epochs", "warmup_epochs", "freeze_epochs", "sizes", "seed"),
    # That of an elastic job changes.
    "resources": ("workers",),
}
"""What changes the result of a step, or the number of steps, and not what one costs."""
MOST = 2**53
"""No count is larger: JSON's numbers are exact up to here."""
SLOWEST = 1e-6
"""Images per second: one in twelve days."""


def step_cost_key(spec: PretrainSpec) -> str:
    """The same text for specs whose steps cost the same, with as many workers of one kind."""
    decides = spec.model_dump(mode="json", include=_DECIDE)
    for section, names in _DO_NOT_DECIDE.items():
        for name in names:
            decides[section].pop(name, None)
    training = spec.training
    if training.sizes or training.freeze_epochs:
        # Steps differ then, and their shares depend on the number of epochs.
        decides["course"] = [training.epochs, training.freeze_epochs, training.sizes]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class MeasuredRun:
    """What is known of a run's speed and memory."""

    job: str
    name: str
    workers: int
    batch_size: int
    """Images per step, over all workers."""
    steps_per_epoch: float
    images_per_second: float
    """By its last reading, of a few steps."""
    steps: int = 0
    """Those that its last processes have trained to the end of the training; 0 while it runs."""
    seconds: float = 0.0
    """From the first of these steps to the last."""
    device: str | None = None
    peak_memory: int | None = None
    """In bytes, of one worker."""

    @classmethod
    def of(cls, job: Job) -> MeasuredRun | None:
        """The measured run of a row with its attempts; None if nothing is measured yet."""
        spec = read_spec(job.spec, job.spec_version)
        progress = read_progress(job.progress)
        if not isinstance(spec, PretrainSpec) or progress is None or job.workers is None:
            return None
        timeline = stored_timeline(job.attempts[-1]) if job.attempts else None
        # Before its first step, what is stored is of the attempt before, perhaps of other workers.
        if timeline is None or timeline.first_step is None or not _is_credible(progress):
            return None
        seconds = 0.0
        if timeline.last_step is not None:
            seconds = (timeline.last_step - timeline.first_step).total_seconds()
        counted = seconds > 0 and progress.resumed_at is not None
        return cls(
            job=job.id,
            name=job.name,
            workers=job.workers,
            batch_size=spec.training.batch_size,
            steps_per_epoch=progress.steps / progress.epochs,
            images_per_second=progress.images_per_second,
            steps=progress.step - (progress.resumed_at or 0) if counted else 0,
            seconds=seconds,
            device=progress.device,
            peak_memory=progress.peak_memory,
        )

    @property
    def pace(self) -> float | None:
        """Images per second, with what was done between the steps; None if for under an epoch."""
        if self.steps < max(2.0, self.steps_per_epoch):
            return None
        return (self.steps - 1) * self.batch_size / self.seconds


def epochs_of(spec: PretrainSpec) -> int:
    """The epochs that a job trains itself."""
    return spec.training.epochs - (spec.extends.epochs if spec.extends else 0)


def training_cost(epochs: int, runs: Iterable[MeasuredRun]) -> TrainingCost | None:
    """What training for so many epochs would take; None if no run is known.

    Args:
        epochs: those to train.
        runs: whose steps cost the same, the one to be trusted most first. One whose pace is known
            is preferred to all others.
    """
    found = list(runs)
    run = next((each for each in found if each.pace is not None), next(iter(found), None))
    if run is None:
        return None
    rate = run.pace or run.images_per_second
    return TrainingCost(
        seconds=epochs * run.steps_per_epoch * run.batch_size / rate,
        basis=CostBasis.RATE if run.pace is None else CostBasis.RUN,
        images_per_second=rate,
        workers=run.workers,
        device=run.device,
        peak_memory=run.peak_memory,
        job=run.job,
        name=run.name,
    )


def _is_credible(progress: Progress) -> bool:
    """Whether a progress can be a run's: whoever can write to MLflow could have written it."""
    return (
        0 < progress.epochs <= progress.steps < MOST
        and 0 <= (progress.resumed_at or 0) <= progress.step <= progress.steps
        and 0 <= (progress.peak_memory or 0) < MOST
        and SLOWEST < progress.images_per_second < MOST
    )
