"""Chooses the configurations that a sweep tries."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

from pydantic import ValidationError

from vicreg_platform.contract.trial import Trial, TrialState
from vicreg_platform.specs import (
    Choice,
    Distribution,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    SweepSpec,
)
from vicreg_workers.failures import UserFailure
from vicreg_workers.sweep.ledger import Entry, Ledger

MAX_REFUSED = 1000
"""Draws refused in a row after which the search gives up."""


class Search(Protocol):
    """Chooses configurations."""

    def propose(self, number: int) -> dict[str, Any] | None:
        """Propose a configuration for trial ``number``. None if there is none left.

        Called again for the same trial if the pretrain spec refuses the configuration.
        """

    def tell(self, trial: Trial) -> None:
        """Learn from a trial that has ended."""


def next_trial(search: Search, spec: SweepSpec, number: int) -> Entry | None:
    """The next trial whose configuration the pretrain spec accepts. None if there is none left.

    It is its training with the first seed.

    Raises:
        UserFailure: 1000 configurations in a row were refused.
    """
    for refused in range(MAX_REFUSED):
        parameters = search.propose(number)
        if parameters is None:
            return None
        try:
            trained = spec.trial_spec(parameters)
        except ValidationError:
            continue
        return Entry(
            number=number,
            parameters=parameters,
            epochs=trained.training.epochs,
            refused=refused,
        )
    raise UserFailure(
        f"space: {MAX_REFUSED} configurations in a row were refused by the pretrain spec, such as "
        f"{parameters}: narrow the space to values that fit together"
    )


def build_search(spec: SweepSpec, ledger: Ledger) -> Search:
    """The search that a spec asks for. It knows what the ledger holds."""
    if spec.search.algorithm == "grid":
        return GridSearch(spec, ledger)
    if spec.search.algorithm == "random":
        return RandomSearch(spec)
    return OptunaSearch(spec, ledger)


class RandomSearch:
    """Draws independently. A trial's draws depend only on the seed and its number."""

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._number = -1
        self._generator = random.Random()

    def propose(self, number: int) -> dict[str, Any]:
        """See ``Search``."""
        if number != self._number:
            self._number = number
            self._generator = random.Random(f"{self._spec.search.seed}/{number}")
        return {path: _draw(each, self._generator) for path, each in self._spec.space.items()}

    def tell(self, trial: Trial) -> None:
        """Do nothing: results do not matter."""


class GridSearch:
    """Every combination once, in order. Those that the spec refuses are skipped."""

    def __init__(self, spec: SweepSpec, ledger: Ledger) -> None:
        used = sum(1 + ledger.entry(trial.number).refused for trial in ledger)
        self._left: Iterator[tuple[Any, ...]] = islice(spec.configurations(), used, None)
        self._paths = list(spec.space)

    def propose(self, number: int) -> dict[str, Any] | None:
        """See ``Search``."""
        values = next(self._left, None)
        return None if values is None else dict(zip(self._paths, values, strict=True))

    def tell(self, trial: Trial) -> None:
        """Do nothing: results do not matter."""


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator (Bergstra et al. 2011).

    Its study is rebuilt from the ledger when a driver continues a sweep. A failed trial and a
    refused configuration count as failed.
    """

    def __init__(self, spec: SweepSpec, ledger: Ledger) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._space = {path: _optuna_distribution(each) for path, each in spec.space.items()}
        # Optuna does not accept lists as the values of a choice: it chooses an index instead.
        self._choices = {
            path: each.choice for path, each in spec.space.items() if isinstance(each, Choice)
        }
        self._quanta = {p: each for p, each in spec.space.items() if isinstance(each, QUniform)}
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=spec.search.seed + len(ledger)),
            direction="maximize" if spec.objective.mode == "max" else "minimize",
        )
        self._asked: dict[int, Any] = {}
        for trial in ledger:
            if trial.state is TrialState.RUNNING:
                continue
            value = trial.objective if trial.state is not TrialState.FAILED else None
            self._study.add_trial(
                optuna.trial.create_trial(
                    params={p: self._coded(p, v) for p, v in trial.parameters.items()},
                    distributions=self._space,
                    value=value,
                    state=self._state(value),
                )
            )

    def propose(self, number: int) -> dict[str, Any]:
        """See ``Search``."""
        refused = self._asked.pop(number, None)
        if refused is not None:
            self._study.tell(refused, state=self._optuna.trial.TrialState.FAIL)
        asked = self._study.ask(self._space)
        self._asked[number] = asked
        return {path: self._decoded(path, value) for path, value in asked.params.items()}

    def tell(self, trial: Trial) -> None:
        """See ``Search``."""
        asked = self._asked.pop(trial.number, None)
        if asked is None:  # asked for by an earlier driver
            return
        value = trial.objective if trial.state is not TrialState.FAILED else None
        self._study.tell(asked, value, state=self._state(value))

    def _state(self, value: float | None) -> Any:
        states = self._optuna.trial.TrialState
        return states.FAIL if value is None else states.COMPLETE

    def _decoded(self, path: str, value: Any) -> Any:
        if path in self._choices:
            return self._choices[path][value]
        if path in self._quanta:
            return self._quanta[path].value(value)
        return value

    def _coded(self, path: str, value: Any) -> Any:
        if path in self._choices:
            return self._choices[path].index(value)
        if path in self._quanta:
            return round(value / self._quanta[path].quniform[2])
        return value


def _draw(distribution: Distribution, generator: random.Random) -> Any:
    if isinstance(distribution, LogUniform):
        low, high = distribution.loguniform
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    if isinstance(distribution, QUniform):
        factors = distribution.multiples()
        return distribution.value(generator.randrange(factors.start, factors.stop))
    if isinstance(distribution, RandInt):
        return generator.randrange(*distribution.randint)
    if isinstance(distribution, (Choice, Grid)):
        return generator.choice(distribution.values())
    return generator.uniform(*distribution.uniform)


def _optuna_distribution(distribution: Distribution) -> Any:
    from optuna import distributions

    if isinstance(distribution, LogUniform):
        return distributions.FloatDistribution(*distribution.loguniform, log=True)
    if isinstance(distribution, QUniform):
        factors = distribution.multiples()
        return distributions.IntDistribution(factors.start, factors.stop - 1)
    if isinstance(distribution, RandInt):
        low, high = distribution.randint
        return distributions.IntDistribution(low, high - 1)
    if isinstance(distribution, (Choice, Grid)):
        return distributions.CategoricalDistribution(tuple(range(len(distribution.values()))))
    return distributions.FloatDistribution(*distribution.uniform)
