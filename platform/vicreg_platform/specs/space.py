"""The distributions of a sweep's space.

A distribution answers two questions. ``probes()`` are values that the field must accept, tried
when the spec is checked: the ends of a range, and a value between them that a whole-number field
refuses. ``values()``, of choices and grids, are all the values there are.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Annotated, Any

from pydantic import Field, Tag, model_validator

from vicreg_platform.specs.base import SpecModel, by_field

Bounds = tuple[float, float]
Values = Annotated[tuple[Any, ...], Field(min_length=1, max_length=1000)]
MAX_MULTIPLES = 1e9
INSIDE = 0.3819
"""Where the probe inside a range lies, as a share of it: a whole-number field refuses it."""


class _Distribution(SpecModel):
    @abstractmethod
    def probes(self) -> list[Any]:
        """Values that the field must accept, the largest among them."""

    def largest(self) -> Any:
        """The largest value.

        Raises:
            TypeError: the values are of several types.
        """
        return max(self.probes())


class Uniform(_Distribution):
    """A number between two others, all equally likely."""

    uniform: Bounds

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        _check_order(*self.uniform)
        return self

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
        low, high = self.uniform
        return [low, low + INSIDE * (high - low), high]


class LogUniform(_Distribution):
    """A number between two others, all orders of magnitude equally likely."""

    loguniform: Bounds

    @model_validator(mode="after")
    def _ordered(self) -> LogUniform:
        low, high = self.loguniform
        _check_order(low, high)
        if low <= 0:
            raise ValueError(f"the lower end, {low:g}, must be above 0")
        return self

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
        low, high = self.loguniform
        return [low, low * (high / low) ** INSIDE, high]


class QUniform(_Distribution):
    """A multiple of the third number between the first two; a whole number if all three are."""

    quniform: tuple[float, float, float]

    @model_validator(mode="after")
    def _ordered(self) -> QUniform:
        low, high, step = self.quniform
        _check_order(low, high)
        if step > 0 and max(abs(low), abs(high)) / step > MAX_MULTIPLES:
            raise ValueError(f"there are more than {MAX_MULTIPLES:g} multiples of {step:g}")
        if step <= 0 or not self.multiples():
            raise ValueError(f"no multiple of {step:g} lies between {low:g} and {high:g}")
        return self

    def multiples(self) -> range:
        """The factors of the multiples."""
        low, high, step = self.quniform
        if step <= 0:
            return range(0)
        return range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)

    def value(self, factor: int) -> float:
        """The multiple with this factor."""
        value = round(factor * self.quniform[2], 12)
        return int(value) if all(number.is_integer() for number in self.quniform) else value

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
        factors = self.multiples()
        return [
            self.value(factors[0]),
            self.value(factors[min(1, len(factors) - 1)]),
            self.value(factors[-1]),
        ]


class RandInt(_Distribution):
    """A whole number from the first up to, but not including, the second."""

    randint: tuple[int, int]

    @model_validator(mode="after")
    def _ordered(self) -> RandInt:
        _check_order(*self.randint)
        return self

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
        return [self.randint[0], self.randint[1] - 1]


class Choice(_Distribution):
    """One of several values, all equally likely."""

    choice: Values

    def values(self) -> tuple[Any, ...]:
        """All of them, in order."""
        return self.choice

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
        return list(self.choice)


class Grid(_Distribution):
    """Each of several values in turn, in every combination with the other grids."""

    grid: Values

    def values(self) -> tuple[Any, ...]:
        """All of them, in order."""
        return self.grid

    def probes(self) -> list[Any]:
        """See ``probes`` of all distributions."""
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


def _check_order(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"the lower end, {low:g}, must be below {high:g}")
