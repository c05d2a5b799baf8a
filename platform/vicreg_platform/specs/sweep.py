"""The sweep spec: a search of a pretraining spec's space."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from vicreg_platform.specs.base import (
    CrossFieldError,
    Name,
    SpecModel,
    by_field,
    cross_faults,
    field_faults,
    overlap,
)
from vicreg_platform.specs.job import OF_THE_JOB, WHEN, JobSpec
from vicreg_platform.specs.overrides import overridden
from vicreg_platform.specs.pretrain import PretrainSpec, Resources

Bounds = tuple[float, float]
Values = Annotated[tuple[Any, ...], Field(min_length=1, max_length=1000)]
FieldPath = Annotated[str, StringConstraints(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)*$")]
INSIDE = 0.3819
"""Where between the ends of a range a third value is tried: what takes whole numbers only,
refuses it."""

MEASURED = ("knn/", "representation/")
"""Metrics that a training logs as often as ``watch.knn_every_epochs`` says."""


class Uniform(SpecModel):
    """A number between two others, all as likely."""

    uniform: Bounds

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_order(*self.uniform)
        return self

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        low, high = self.uniform
        return [low, low + INSIDE * (high - low), high]


class LogUniform(SpecModel):
    """A number between two others, its logarithm as likely everywhere."""

    loguniform: Bounds

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        low, high = self.loguniform
        _check_order(low, high)
        if low <= 0:
            raise ValueError(f"the lower end, {low:g}, must be above 0")
        return self

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        low, high = self.loguniform
        return [low, low * (high / low) ** INSIDE, high]


class QUniform(SpecModel):
    """A multiple of the third number between the first two; a whole number where all three are."""

    quniform: tuple[float, float, float]

    @model_validator(mode="after")
    def _ordered(self) -> QUniform:
        low, high, step = self.quniform
        _check_order(low, high)
        if step <= 0 or not self.multiples():
            raise ValueError(f"no multiple of {step:g} lies between {low:g} and {high:g}")
        return self

    def multiples(self) -> range:
        """The multiples' factors."""
        low, high, step = self.quniform
        if step <= 0:
            return range(0)
        return range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)

    def value(self, factor: int) -> float:
        """A multiple."""
        value = round(factor * self.quniform[2], 12)
        return int(value) if all(number.is_integer() for number in self.quniform) else value

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        factors = self.multiples()
        return [
            self.value(factors[0]),
            self.value(factors[min(1, len(factors) - 1)]),
            self.value(factors[-1]),
        ]


class RandInt(SpecModel):
    """A whole number from the first up to, and without, the second."""

    randint: tuple[int, int]

    @model_validator(mode="after")
    def _ordered(self) -> RandInt:
        _check_order(*self.randint)
        return self

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        return [self.randint[0], self.randint[1] - 1]


class Choice(SpecModel):
    """One of some values, all as likely."""

    choice: Values

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        return list(self.choice)


class Grid(SpecModel):
    """Each of some values in turn, in every combination with the other grids."""

    grid: Values

    def samples(self) -> list[Any]:
        """Values that the field must take."""
        return list(self.grid)


Distribution = Annotated[
    Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[QUniform, Tag("quniform")]
    | Annotated[RandInt, Tag("randint")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Grid, Tag("grid")],
    by_field("distribution", ("uniform", "loguniform", "quniform", "randint", "choice", "grid")),
]


class Objective(SpecModel):
    """What the search makes as large or as small as it can."""

    metric: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)+$")] = "knn/top1"
    """Any metric that a pretraining logs."""
    mode: Literal["max", "min"] = "max"
    value: Literal["best", "last"] = "best"
    """Which value of a trial's curve counts, of those at the ends of its epochs."""


class Search(SpecModel):
    """How configurations are chosen."""

    algorithm: Literal["random", "grid", "optuna"] = "random"
    """``grid`` takes the combinations of all grids and choices in order; ``optuna`` is its
    tree-structured Parzen estimator."""
    trials: int = Field(default=16, ge=1, le=10_000)
    """How many; with ``grid``, at most."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class Fifo(SpecModel):
    """Every trial is trained to its end."""

    name: Literal["fifo"]


class Asha(SpecModel):
    """Asynchronous successive halving (Li et al. 2018).

    A trial goes on past a rung only among the best of those that have reached it.
    """

    name: Literal["asha"]
    grace_epochs: int = Field(default=1, ge=1, le=100_000)
    """No trial ends before this; also the first rung."""
    reduction_factor: int = Field(default=4, ge=2, le=100)
    """One in so many goes on; each rung is so many times further than the one before."""


class Median(SpecModel):
    """The median stopping rule (Golovin et al. 2017).

    A trial ends whose best is worse than the median of the others' running means.
    """

    name: Literal["median"]
    grace_epochs: int = Field(default=1, ge=1, le=100_000)
    """No trial ends before this."""
    min_trials: int = Field(default=3, ge=1, le=10_000)
    """Others that there must be to compare with."""


Scheduler = Annotated[Fifo | Asha | Median, Field(discriminator="name")]


class SweepSpec(JobSpec):
    """A sweep: many pretrainings, each of one configuration from the space."""

    kind: Literal["sweep"]
    name: Name = "sweep"
    base: dict[str, Any]
    """A pretrain spec. It is kept as it was written: a default may depend on what the space
    sets."""
    space: Annotated[dict[FieldPath, Distribution], Field(min_length=1, max_length=64)]
    """Fields of the base by their dotted paths, and the values that they may take."""
    objective: Objective = Objective()
    search: Search = Search()
    scheduler: Scheduler = Asha(name="asha")
    concurrency: int = Field(default=1, ge=1, le=1000)
    """Trials at once, at most; the cluster may have room for fewer."""
    promote: bool = False
    """Whether the best configuration is then trained as a job of its own, with the base's
    evaluations."""

    @model_validator(mode="before")
    @classmethod
    def _fill_base(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("base"), dict):
            return data
        base = {"kind": "pretrain"} | data["base"]
        objective = data.get("objective", {})
        metric = objective.get("metric", "knn/top1") if isinstance(objective, dict) else None
        watch = base.get("watch", {})
        # An objective that comes in few epochs only would leave little to stop early.
        measured = isinstance(metric, str) and metric.startswith(MEASURED)
        if measured and isinstance(watch, dict) and watch.get("knn_every_epochs") is None:
            base["watch"] = watch | {"knn_every_epochs": 1}
        space = data.get("space")
        for section, name in (("method", "vicreg"), ("optimizer", "lars")):
            if isinstance(space, dict) and any(str(path).startswith(section) for path in space):
                base.setdefault(section, {"name": name})
        return data | {"base": base}

    @model_validator(mode="after")
    def _space_fits_base(self) -> SweepSpec:
        faults = self._base_faults()
        if not faults:
            faults = [fault for path in self.space for fault in self._field_faults(path)]
            faults += self._search_faults() + self._objective_faults()
        if faults:
            raise CrossFieldError(faults)
        return self

    def configurations(self) -> itertools.product[tuple[Any, ...]]:
        """Every combination of a space of grids and choices; the last path changes fastest."""
        return itertools.product(*(each.samples() for each in self.space.values()))

    def trial_spec(self, parameters: dict[str, Any]) -> PretrainSpec:
        """The pretraining of one configuration.

        Raises:
            pydantic.ValidationError: its fields do not fit together.
        """
        return PretrainSpec.model_validate(overridden(self.base, parameters))

    def trial_resources(self) -> Resources:
        """What the largest trial of the space is given."""
        given = Resources.model_validate(self.base.get("resources", {})).model_dump()
        for name in given:
            values = self.space.get(f"resources.{name}")
            given[name] = max(values.samples()) if values is not None else given[name]
        return Resources.model_validate(given)

    def _base_faults(self) -> list[tuple[tuple[str, ...], str]]:
        if self.base.get("kind") != "pretrain":
            return [(("base.kind",), "must be pretrain: a sweep is of pretrainings")]
        misplaced = [name for name in WHEN if name in self.base]
        if misplaced:
            text = "is said of the sweep, not of its base"
            return [((f"base.{name}",), text) for name in misplaced]
        try:
            PretrainSpec.model_validate(self.base)
        except ValidationError as error:
            # Fields that do not fit together may do so where the space sets one of them.
            return [
                ((f"base.{fault.field}",), fault.message)
                for fault in field_faults(PretrainSpec, self.base, error)
                if fault.field not in self.space
            ]
        return []

    def _field_faults(self, path: str) -> list[tuple[tuple[str, ...], str]]:
        """Why the field at ``path`` does not take the values of its distribution."""
        place = f"space.{path}"
        if path.split(".")[0] in ("kind", "evaluations", *OF_THE_JOB):
            return [((place,), "only fields that the training depends on can be searched")]
        for value in self.space[path].samples():
            changed = overridden(self.base, {path: value})
            try:
                PretrainSpec.model_validate(changed)
            except ValidationError as error:
                # What does not fit together may do so with other values: such draws are refused.
                together = cross_faults(error, set())
                for fault in field_faults(PretrainSpec, changed, error):
                    if fault not in together and overlap(fault.field, path):
                        text = fault.message
                        if not text.startswith("unknown field"):
                            text = f"the field does not take {value!r}: {text}"
                        return [((place,), text)]
        return []

    def _search_faults(self) -> list[tuple[tuple[str, ...], str]]:
        grids = [path for path, each in self.space.items() if isinstance(each, Grid)]
        if self.search.algorithm == "grid":
            others = [
                path for path, each in self.space.items() if not isinstance(each, (Grid, Choice))
            ]
            return [
                ((f"space.{path}", "search.algorithm"), "a grid search takes grid or choice")
                for path in others
            ]
        return [
            ((f"space.{path}", "search.algorithm"), "grid needs search.algorithm grid; use choice")
            for path in grids
        ]

    def _objective_faults(self) -> list[tuple[tuple[str, ...], str]]:
        watch, metric = self.base.get("watch", {}), self.objective.metric
        if metric.startswith(MEASURED) and watch.get("knn_every_epochs") == 0:
            often = "never" if metric.startswith("knn/") else "too seldom"
            text = f"{metric} is {often} measured where base.watch.knn_every_epochs is 0"
            return [(("objective.metric",), text)]
        return []


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the lower end, {low:g}, must be below {high:g}")
