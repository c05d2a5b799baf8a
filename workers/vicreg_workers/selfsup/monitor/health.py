"""Whether a training looks like healthy ones, and if not, what to change.

The rules look at quantities without units, so that trainings of other widths and images compare.
What is usual was measured: ``tests/benchmarks/health.py`` trains on digits, healthy with each
preset of the augmentation and broken on purpose, and writes ``reference.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from vicreg_platform.specs import PretrainSpec, VICReg

BANDS = 10
"""Parts of a training, each with its own reference band."""
IGNORED = 0.2
"""Share of a training that is not judged: healthy ones begin alike whatever comes later."""
LASTING = 0.1
"""Share of a training for which a quantity must stay outside."""

COLLAPSED = 0.01
"""Standard deviation below which distances are those of rounding: the default of
``watch.collapse_std``."""

Band = tuple[float, float]
_TOO = {"above": "high", "below": "low"}


@dataclass(frozen=True)
class Quantity:
    """A number that says how a training goes."""

    words: str
    of: Callable[[Mapping[str, float]], float | None]
    """Its value by the metrics of a step; None if they do not have it."""


def _spread(metrics: Mapping[str, float]) -> float | None:
    return metrics.get("embedding/std_mean")


def _distance(metrics: Mapping[str, float]) -> float | None:
    invariance, std = metrics.get("train/invariance"), metrics.get("embedding/std_mean")
    if invariance is None or std is None or std < COLLAPSED:
        return None
    # Of two unrelated images, each dimension's squared distance is twice its variance.
    return invariance / (2 * std**2)


def _correlation(metrics: Mapping[str, float]) -> float | None:
    covariance, std = metrics.get("train/covariance"), metrics.get("embedding/std_mean")
    if covariance is None or std is None or std < COLLAPSED:
        return None
    return covariance / std**4


def _rank(metrics: Mapping[str, float]) -> float | None:
    return metrics.get("embedding/rankme")


QUANTITIES = {
    "spread": Quantity(
        "embedding/std_mean (the standard deviation of the embedding's dimensions)", _spread
    ),
    "distance": Quantity(
        "train/invariance / (2 × embedding/std_mean²) (the squared distance of an image's two "
        "views, as a share of that of two unrelated images)",
        _distance,
    ),
    "correlation": Quantity(
        "train/covariance / embedding/std_mean⁴ (the sum of a dimension's squared correlations "
        "with the others)",
        _correlation,
    ),
    "rank": Quantity("embedding/rankme", _rank),
}


@dataclass(frozen=True)
class Outside:
    """A quantity is outside its reference band."""

    quantity: str
    side: Literal["above", "below"]
    factor: float
    """How many times as much as the band's upper end, or as little as its lower end, is wrong."""

    def holds(self, value: float, band: Band) -> bool:
        """Whether a value is so far outside."""
        low, high = band
        return value > high * self.factor if self.side == "above" else value < low / self.factor


@dataclass(frozen=True)
class Rule:
    """What is wrong if quantities stay outside their reference bands."""

    name: str
    """Of the finding."""
    conditions: tuple[Outside, ...]
    """All must hold, for metrics that are recorded at the same steps."""
    advice: str
    at_once: bool = False
    """Whether it is reported when it holds first, however early."""


RULES = (
    Rule(
        "collapsed",
        (Outside("spread", "below", 5.0),),
        "raise method.variance, or lower optimizer.base_lr",
    ),
    Rule(
        "dimensional_collapse",
        (Outside("rank", "below", 3.0),),
        "raise method.covariance, or lower optimizer.base_lr",
    ),
    Rule(
        "invariance_not_falling",
        (Outside("distance", "above", 1.25),),
        "raise method.invariance, or weaken the augmentation; if the loss has hardly moved, raise "
        "optimizer.base_lr",
    ),
    Rule(
        "covariance_dominates",
        (Outside("correlation", "below", 3.0), Outside("distance", "above", 1.25)),
        "lower method.covariance, or raise method.invariance; if the loss has hardly moved, raise "
        "optimizer.base_lr",
    ),
    Rule(
        "learning_rate_too_high",
        # Above the hinge at 1, variance is worth nothing to the loss: such weights run away.
        (Outside("spread", "above", 8.0),),
        "lower optimizer.base_lr, or lengthen training.warmup_epochs",
        at_once=True,
    ),
    Rule(
        "augmentation_too_weak",
        (Outside("distance", "below", 20.0),),
        "strengthen the augmentation: lower the first of augmentation.crop_scale, or take its "
        "preset as it is",
    ),
)
"""Each fires on a run that was broken for it, and on none of the healthy ones; the factors lie
between the two (``tests/unit/selfsup/monitor/test_health.py``)."""


class Health:
    """Compares a training with healthy ones and reports what is wrong.

    There is no band for other methods than vicreg, for embeddings that are normalised, for the
    augmentation preset ``paper``, and for trainings that start from weights: nothing is reported.

    Args:
        spec: what is trained.
        steps: of the whole training.
        finding: told what is found, as ``Context.finding``.
    """

    def __init__(
        self, spec: PretrainSpec, steps: int, finding: Callable[[str, str | None], None]
    ) -> None:
        self._finding = finding
        self._steps = steps
        self._preset = spec.augmentation.preset
        comparable = (
            isinstance(spec.method, VICReg)
            and spec.expander.normalization == "none"
            and spec.init is None
        )
        self._bands = bands(self._preset) if comparable else {}
        self._since: dict[str, int] = {}

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Judge the metrics of a step, and report every rule that they concern."""
        if not self._bands:
            return
        part = min(BANDS - 1, step * BANDS // self._steps)
        for rule in RULES:
            if step < IGNORED * self._steps and not rule.at_once:
                continue
            values = [QUANTITIES[each.quantity].of(metrics) for each in rule.conditions]
            known = [value for value in values if value is not None]
            if len(known) < len(values):
                continue
            usual = [self._bands[each.quantity][part] for each in rule.conditions]
            if not all(map(Outside.holds, rule.conditions, known, usual)):
                self._since.pop(rule.name, None)
                self._finding(rule.name, None)
                continue
            since = self._since.setdefault(rule.name, step)
            if rule.at_once or step - since >= LASTING * self._steps:
                parts = map(self._compared, rule.conditions, known, usual)
                self._finding(
                    rule.name,
                    f"since step {since} {' and '.join(parts)}: {rule.advice}",
                )

    def _compared(self, condition: Outside, value: float, band: Band) -> str:
        return (
            f"{QUANTITIES[condition.quantity].words} is too {_TOO[condition.side]}, now "
            f"{value:.3g} when healthy runs of the preset {self._preset} have {band[0]:.3g} to "
            f"{band[1]:.3g}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Since when each quantity is outside its band."""
        return {"health": dict(self._since)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned; earlier versions' states have none."""
        self._since = dict(state.get("health", {}))


def bands(preset: str) -> Mapping[str, list[Band]]:
    """The lowest and the highest value of healthy runs, by quantity and part of the training.

    Args:
        preset: of the augmentation. Of one that was not measured there is none.
    """
    return _reference()["bands"].get(preset, {})  # type: ignore[no-any-return]


@cache
def _reference() -> dict[str, Any]:
    text = files(__package__).joinpath("reference.json").read_text()
    return json.loads(text)  # type: ignore[no-any-return]
