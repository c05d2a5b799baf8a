"""The sweep spec: a search of a pretraining spec's space."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, model_validator

from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.base import (
    UNKNOWN_FIELD,
    CrossFieldError,
    FieldFault,
    Name,
    SpecModel,
    cross_faults,
    field_faults,
    overlap,
)
from vicreg_platform.specs.data import Data
from vicreg_platform.specs.job import OF_THE_JOB, WHEN, Identifier, JobSpec
from vicreg_platform.specs.overrides import overridden, without_values
from vicreg_platform.specs.pretrain import PretrainSpec, Resources
from vicreg_platform.specs.space import Choice, Distribution, Grid

FieldPath = Annotated[str, StringConstraints(pattern=r"^[a-z_0-9]+(\.[a-z_0-9]+)*$")]

MAX_CONFIGURATION = 6000
"""Characters of a trial's values as JSON: MLflow's tags hold 8,000, the trial's state included."""
MEASURED = ("knn/", "representation/")
"""Metrics that a training logs every ``watch.knn_every_epochs`` epochs."""


class Objective(SpecModel):
    """What the search maximises or minimises."""

    metric: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)+$")] = "knn/top1"
    """Any metric that a pretraining records."""
    mode: Literal["max", "min"] = "max"
    """Whether a larger or a smaller value is better."""
    value: Literal["best", "last"] = "best"
    """Which of a trial's end-of-epoch values counts."""


class Search(SpecModel):
    """How configurations are chosen."""

    algorithm: Literal["random", "grid", "optuna"] = "random"
    """``grid`` takes the combinations of all grids and choices in order; ``optuna`` is its
    tree-structured Parzen estimator."""
    trials: int = Field(default=16, ge=1, le=10_000)
    """How many configurations to try; with ``grid``, at most. Each is one trial, however many
    seeds it is trained with: 20 trials of 3 seeds are 60 trainings."""
    seeds: int = Field(default=1, ge=1, le=10)
    """How many times each configuration is trained: with the base's ``training.seed``, and with the
    numbers that follow it. A trial's objective is their mean."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random choices."""


class Fifo(SpecModel):
    """Trains every trial to its last epoch."""

    name: Literal["fifo"]


class Asha(SpecModel):
    """Asynchronous successive halving (Li et al. 2018).

    A trial continues past a rung only if it is among the best of those that have reached it.
    """

    name: Literal["asha"]
    grace_epochs: int = Field(default=1, ge=1, le=100_000)
    """No trial is stopped before this epoch, which is also the first rung."""
    reduction_factor: int = Field(default=4, ge=2, le=100)
    """1 in this many trials continues; each rung is this many times later than the one before."""


class Median(SpecModel):
    """The median stopping rule (Golovin et al. 2017).

    A trial is stopped if its best value is worse than the median of the others' running means.
    """

    name: Literal["median"]
    grace_epochs: int = Field(default=1, ge=1, le=100_000)
    """No trial is stopped before this epoch."""
    min_trials: int = Field(default=3, ge=1, le=10_000)
    """How many other trials there must be to compare with."""


Scheduler = Annotated[Fifo | Asha | Median, Field(discriminator="name")]


_SAME = ("base", "space", "objective")
"""What a sweep and the one that it extends have in common."""


class ExtendsSweep(SpecModel):
    """The sweep whose trials this one begins with: ``POST /v1/jobs/{id}/extend`` fills it in."""

    job: Identifier
    """It has succeeded, and searched the same space of the same base for the same objective."""
    trials: int = Field(ge=1, le=10_000)
    """How many it was to try: this one tries those that are left of its own."""


class SweepSpec(JobSpec):
    """A sweep: many pretrainings, each with one configuration from the space."""

    kind: Literal["sweep"]
    name: Name = "sweep"
    base: dict[str, Any]
    """A pretrain spec. It is stored as it was written, because a default may depend on a value
    from the space. With an objective ``knn/…`` or ``representation/…``, its
    ``watch.knn_every_epochs`` is 1 unless it is given."""
    space: Annotated[dict[FieldPath, Distribution], Field(min_length=1, max_length=64)]
    """Fields of the base by their dotted paths, and the values that they may take. Every field that
    affects the training can be searched."""
    objective: Objective = Objective()
    search: Search = Search()
    scheduler: Scheduler = Asha(name="asha")
    concurrency: int = Field(default=1, ge=1, le=1000)
    """Trainings at once, at most; fewer if the empty cluster cannot hold as many."""
    promote: bool = False
    """Train the best configuration afterwards, as a job of its own with the base's evaluations."""
    extends: ExtendsSweep | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_base(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("base"), dict):
            return data
        base = {"kind": "pretrain"} | data["base"]
        objective = data.get("objective", {})
        metric = objective.get("metric", "knn/top1") if isinstance(objective, dict) else None
        watch = base.get("watch", {})
        # An objective that is rarely measured would leave little to stop early.
        measured = isinstance(metric, str) and metric.startswith(MEASURED)
        if measured and isinstance(watch, dict) and watch.get("knn_every_epochs") is None:
            base["watch"] = watch | {"knn_every_epochs": 1}
        space = data.get("space")
        for section, name in (("method", "vicreg"), ("optimizer", "lars")):
            if isinstance(space, dict) and any(str(path).startswith(section) for path in space):
                base.setdefault(section, {"name": name})
        # What the space sets is not read from the base, and so must not be kept there unchecked.
        if isinstance(space, dict):
            base = without_values(base, map(str, space))
        return data | {"base": base}

    @model_validator(mode="after")
    def _space_fits_base(self) -> SweepSpec:
        faults = self._base_faults()
        if not faults:
            faults = [fault for path in self.space for fault in self._field_faults(path)]
            faults += self._search_faults() + self._size_faults() + self._objective_faults()
        if not faults:
            faults = self._resource_faults()
        if faults:
            raise CrossFieldError(faults)
        return self

    def needs(self) -> Needs:
        """See ``JobSpec.needs``; as many trainings at once as the sweep asks for."""
        trials = self.trials - (self.extends.trials if self.extends else 0)
        trainings = min(self.concurrency, trials * self.search.seeds)
        resources = self.trial_resources()
        assert isinstance(resources.workers, int), "trials are not elastic"
        bundle = Bundle(resources.cpus_per_worker, resources.gpus_per_worker)
        return Needs(bundle, count=resources.workers, groups=trainings)

    def datasets(self) -> dict[str, Data]:
        """See ``JobSpec.datasets``; none if the base is complete only with values of the space."""
        base = self._base()
        if base is None:
            return {}
        return {f"base.{field}": data for field, data in base.datasets().items()}

    @property
    def encoder_job(self) -> str | None:
        """See ``JobSpec.encoder_job``: that of the base."""
        base = self._base()
        return None if base is None else base.encoder_job

    @property
    def encoder_field(self) -> str:
        """See ``JobSpec.encoder_field``."""
        return "base.init"

    @property
    def encoder_path(self) -> str | None:
        """See ``JobSpec.encoder_path``: that of the base."""
        base = self._base()
        return None if base is None else base.encoder_path

    def _base(self) -> PretrainSpec | None:
        try:
            return PretrainSpec.model_validate(self.base)
        except ValidationError:
            return None

    @property
    def extended_job(self) -> str | None:
        """See ``JobSpec.extended_job``."""
        return self.extends.job if self.extends is not None else None

    def _already_done(self, extended: SweepSpec) -> list[FieldFault]:
        done = extended.search.trials
        if self.extends is None or self.extends.trials == done:
            return []
        return [FieldFault("extends.trials", f"job {self.extends.job} was to try {done}")]

    def _unlike(self, extended: SweepSpec) -> list[str]:
        different = [name for name in _SAME if getattr(self, name) != getattr(extended, name)]
        if self.search != extended.search.model_copy(update={"trials": self.search.trials}):
            different.append("search")
        return different

    def runs_in_driver(self, workers: int) -> bool:
        """See ``JobSpec.runs_in_driver``: the trials are processes of their own."""
        return False

    @property
    def combinations(self) -> int | None:
        """How many configurations a grid has; None without one."""
        if self.search.algorithm != "grid":
            return None
        listed = (each for each in self.space.values() if isinstance(each, (Grid, Choice)))
        return math.prod(len(each.values()) for each in listed)

    @property
    def trials(self) -> int:
        """How many trials there are: ``search.trials``, or all of a smaller grid."""
        return min(self.search.trials, self.combinations or self.search.trials)

    def configurations(self) -> Iterator[tuple[Any, ...]]:
        """Every combination of a space of grids and choices; the last path changes fastest."""
        listed = [each for each in self.space.values() if isinstance(each, (Grid, Choice))]
        return itertools.product(*(each.values() for each in listed))

    def trial_spec(self, parameters: dict[str, Any], seed: int = 0) -> PretrainSpec:
        """A pretraining of one configuration.

        Args:
            parameters: the configuration.
            seed: which of the trial's seeds, from 0.

        Raises:
            pydantic.ValidationError: its fields do not fit together.
        """
        spec = PretrainSpec.model_validate(overridden(self.base, parameters))
        training = spec.training
        following = training.model_copy(update={"seed": (training.seed + seed) % 2**32})
        return spec.model_copy(update={"training": following})

    def trial_resources(self) -> Resources:
        """The resources of the largest trial of the space."""
        given = dict(self.base.get("resources", {}))
        for name in Resources.model_fields:
            distribution = self.space.get(f"resources.{name}")
            if distribution is not None:
                given[name] = distribution.largest()
        return Resources.model_validate(given)

    def _base_faults(self) -> list[tuple[tuple[str, ...], str]]:
        if self.base.get("kind") != "pretrain":
            return [(("base.kind",), "must be pretrain: a sweep trains pretrainings")]
        misplaced = [name for name in WHEN if name in self.base]
        if misplaced:
            text = "belongs to the sweep, not to its base"
            return [((f"base.{name}",), text) for name in misplaced]
        if "extends" in self.base:
            return [(("base.extends",), "a trial starts from the beginning")]
        try:
            PretrainSpec.model_validate(self.base)
        except ValidationError as error:
            # Fields that do not fit together may do so once the space sets one of them.
            return [
                ((f"base.{fault.field}",), fault.message)
                for fault in field_faults(PretrainSpec, self.base, error)
                if fault.field not in self.space
            ]
        return []

    def _field_faults(self, path: str) -> list[tuple[tuple[str, ...], str]]:
        """Why the field at ``path`` does not accept the values of its distribution."""
        place = f"space.{path}"
        if path.split(".")[0] in ("kind", "evaluations", *OF_THE_JOB):
            return [((place,), "only fields that affect the training can be searched")]
        for value in self.space[path].probes():
            changed = overridden(self.base, {path: value})
            try:
                PretrainSpec.model_validate(changed)
            except ValidationError as error:
                # Fields that do not fit together may do so with other values: those trials are
                # skipped.
                together = cross_faults(PretrainSpec, changed, error, set())
                for fault in field_faults(PretrainSpec, changed, error):
                    if fault not in together and overlap(fault.field, path):
                        text = fault.message
                        if not text.startswith(UNKNOWN_FIELD):
                            text = f"the field does not accept {value!r}: {text}"
                        return [((place,), text)]
        return []

    def _resource_faults(self) -> list[tuple[tuple[str, ...], str]]:
        """Why the resources of the largest trial are not known."""
        try:
            workers = self.trial_resources().workers
            if not isinstance(workers, int):
                return [(("base.resources.workers",), "a trial has a fixed number of workers")]
        except (TypeError, ValueError) as error:  # values that cannot be compared, or are refused
            paths = [path for path in self.space if path.startswith("resources.")]
            return [((f"space.{path}",), f"must be whole numbers: {error}") for path in paths]
        return []

    def _search_faults(self) -> list[tuple[tuple[str, ...], str]]:
        if self.extends is not None and self.trials <= self.extends.trials:
            text = f"must be more than the {self.extends.trials} that are tried already"
            return [(("search.trials", "extends.trials"), text)]
        grids = [path for path, each in self.space.items() if isinstance(each, Grid)]
        if self.search.seeds > 1 and "training.seed" in self.space:
            text = "search.seeds trains every configuration with the same seeds"
            return [(("space.training.seed", "search.seeds"), text)]
        if self.search.algorithm == "grid":
            others = [
                path for path, each in self.space.items() if not isinstance(each, (Grid, Choice))
            ]
            return [
                ((f"space.{path}", "search.algorithm"), "a grid search needs grid or choice")
                for path in others
            ]
        return [
            ((f"space.{path}", "search.algorithm"), "grid needs search.algorithm grid; use choice")
            for path in grids
        ]

    def _size_faults(self) -> list[tuple[tuple[str, ...], str]]:
        """Why a trial cannot be shown: a tag of its run holds its values."""
        longest = {
            path: len(path) + max(len(json.dumps(value)) for value in each.probes())
            for path, each in self.space.items()
        }
        if sum(longest.values()) <= MAX_CONFIGURATION:
            return []
        path = max(longest, key=lambda each: longest[each])
        return [
            ((f"space.{path}",), f"the values of a trial exceed {MAX_CONFIGURATION} characters")
        ]

    def _objective_faults(self) -> list[tuple[tuple[str, ...], str]]:
        watch, metric = self.base.get("watch", {}), self.objective.metric
        if metric.startswith(MEASURED) and watch.get("knn_every_epochs") == 0:
            often = "never" if metric.startswith("knn/") else "too rarely"
            text = f"{metric} is {often} measured if base.watch.knn_every_epochs is 0"
            return [(("objective.metric",), text)]
        return []
