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
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (cosine + (1 - cosine) * FINAL_FACTOR)
