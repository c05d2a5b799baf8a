"""The curve of the learning rate."""

from __future__ import annotations

import math

FINAL_FACTOR = 0.001
"""The final rate as a share of the peak (``adjust_learning_rate`` in ``main_vicreg.py``)."""


def peak_learning_rate(base_lr: float, batch_size: int) -> float:
    """The linear scaling rule: ``base_lr * batch_size / 256``, ``batch_size`` being global."""
    return base_lr * batch_size / 256


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int) -> float:
    """The rate of a step: a linear warm-up from 0, then a cosine to 0.001 of the peak.

    Args:
        step: the step to take, in [0, total_steps).
        peak: the rate at the end of the warm-up.
        warmup_steps: in [0, total_steps].
        total_steps: of the whole run.

    Source: ``adjust_learning_rate`` in the authors' ``main_vicreg.py``.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    return _falling(step - warmup_steps, peak, total_steps - warmup_steps)


def rewarmed_learning_rate(
    step: int, peak: float, warmup_steps: int, trained_steps: int, total_steps: int
) -> float:
    """The rate of a step of a run that continues one that has ended.

    A linear warm-up from where that one ended, 0.001 of the peak, then a cosine back to it.

    Args:
        step: the step to take, in [trained_steps, total_steps).
        peak: the rate at the end of the warm-up.
        warmup_steps: in [0, total_steps - trained_steps].
        trained_steps: of the run that has ended.
        total_steps: of both runs.

    Source: Gupta et al. 2023 (arXiv 2308.04014), section 3: re-warming, then re-decaying.
    """
    own = step - trained_steps
    if own < warmup_steps:
        final = peak * FINAL_FACTOR
        return final + (peak - final) * own / warmup_steps
    return _falling(own - warmup_steps, peak, total_steps - trained_steps - warmup_steps)


def _falling(step: int, peak: float, steps: int) -> float:
    """A cosine from the peak to 0.001 of it."""
    progress = step / max(1, steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (cosine + (1 - cosine) * FINAL_FACTOR)
