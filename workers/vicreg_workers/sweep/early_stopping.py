"""Which trials stop early, judged by the curves in the ledger.

A trial of several seeds is judged whenever one of them has trained an epoch, by the mean of those
that have come as far, and stops with all of them.

The ledger outlives the driver, so a new driver judges as the one before would have. The rules are
those of Ray Tune's ``AsyncHyperBandScheduler`` and ``MedianStoppingRule``. Optuna's pruners of the
same names differ: its successive halving keeps one in ``reduction_factor`` of those seen so far,
the judged trial included, and its median is over completed trials only.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from vicreg_platform.specs import Asha, Median, SweepSpec
from vicreg_workers.sweep.ledger import Entry, Ledger


class EarlyStopping(Protocol):
    """A rule by which trials stop early."""

    def stops(self, entry: Entry, epoch: int) -> bool:
        """Whether a trial stops after ``epoch`` of one of its trainings.

        The ledger holds the objective of that epoch already.
        """


def build_early_stopping(spec: SweepSpec, ledger: Ledger) -> EarlyStopping:
    """The rule that a sweep's ``scheduler`` names."""
    sign = 1.0 if spec.objective.mode == "max" else -1.0
    if isinstance(spec.scheduler, Asha):
        return SuccessiveHalving(spec.scheduler, ledger, sign)
    if isinstance(spec.scheduler, Median):
        return MedianStopping(spec.scheduler, ledger, sign)
    return NoEarlyStopping()


class NoEarlyStopping:
    """Every trial is trained to its last epoch."""

    def stops(self, entry: Entry, epoch: int) -> bool:
        """Return False."""
        return False


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934, algorithm 2).

    Rungs are at ``grace_epochs * reduction_factor**k`` epochs. A trial that reaches a rung
    continues if its objective is in the top ``1 / reduction_factor`` of those that have reached
    it, by the (linearly interpolated) percentile of the others.

    Args:
        spec: the rungs.
        ledger: the sweep's trials.
        sign: 1.0 if a larger objective is better, -1.0 if a smaller one is.
    """

    def __init__(self, spec: Asha, ledger: Ledger, sign: float) -> None:
        self._spec = spec
        self._ledger = ledger
        self._sign = sign

    def stops(self, entry: Entry, epoch: int) -> bool:
        """See ``EarlyStopping``."""
        rung = self._rung(epoch)
        if rung is None or min(reached for reached in entry.curve if reached >= rung) != epoch:
            return False
        others = [
            value
            for other in self._ledger
            if other.number != entry.number
            and (value := self._value_at(other.number, rung)) is not None
        ]
        own = self._value_at(entry.number, rung)
        if not others or own is None:
            return False
        cutoff = np.nanpercentile(others, (1 - 1 / self._spec.reduction_factor) * 100)
        return bool(own < cutoff)

    def _rung(self, epoch: int) -> int | None:
        """The highest rung at or below ``epoch``."""
        rung = None
        following = self._spec.grace_epochs
        while following <= epoch:
            rung, following = following, following * self._spec.reduction_factor
        return rung

    def _value_at(self, number: int, rung: int) -> float | None:
        """The objective of a trial when it reached the rung, larger being better."""
        scores = self._ledger.scores(number)
        reached = (self._sign * value for epoch, value in scores.items() if epoch >= rung)
        return next(reached, None)


class MedianStopping:
    """The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2).

    A trial stops if its best objective is worse than the median of the others' running means, of
    those that have trained as long. Means start at ``grace_epochs``.

    Args:
        spec: the grace period, and how many others there must be.
        ledger: the sweep's trials.
        sign: 1.0 if a larger objective is better, -1.0 if a smaller one is.
    """

    def __init__(self, spec: Median, ledger: Ledger, sign: float) -> None:
        self._spec = spec
        self._ledger = ledger
        self._sign = sign

    def stops(self, entry: Entry, epoch: int) -> bool:
        """See ``EarlyStopping``."""
        if epoch < self._spec.grace_epochs:
            return False
        means = [
            mean
            for other in self._ledger
            if other.number != entry.number
            and math.isfinite(mean := self._running_mean(other.number, epoch))
        ]
        if len(means) < self._spec.min_trials:
            return False
        best = max(self._values(entry.number, 1, epoch))
        return bool(np.median(means) > best)

    def _running_mean(self, number: int, epoch: int) -> float:
        """The mean of a trial's objective until ``epoch``; not a number if it is not as far."""
        if max(self._ledger.scores(number), default=0) < epoch:
            return math.nan
        values = self._values(number, self._spec.grace_epochs, epoch)
        return float(np.mean(values)) if values else math.nan

    def _values(self, number: int, first: int, last: int) -> list[float]:
        """A trial's objective at the epochs from ``first`` to ``last``, larger being better."""
        return [
            self._sign * value
            for epoch, value in self._ledger.scores(number).items()
            if first <= epoch <= last
        ]
