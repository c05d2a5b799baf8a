"""Which parameters are decayed and scaled, and by which factor each learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from torch import nn


def parameter_groups(
    parameters: Iterable[nn.Parameter],
    factors: Mapping[nn.Parameter, float] | None = None,
    undecayed: Set[nn.Parameter] = frozenset(),
) -> list[dict[str, Any]]:
    """Groups for an optimiser, those of weights first; none is empty.

    Args:
        parameters: what to update; those without ``requires_grad`` are left out.
        factors: of the learning rate, if not 1.
        undecayed: weights that are treated like biases.

    Returns:
        Groups with the keys ``params``, ``adaptive`` (whether they are layers' weights, which are
        decayed, and scaled by LARS) and, if it is not 1, ``factor``.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            weight = _is_weight(parameter) and parameter not in undecayed
            factor = 1.0 if factors is None else factors.get(parameter, 1.0)
            groups.setdefault((weight, factor), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda each: (not each[0][0], -each[0][1]))
    return [
        {"params": some, "adaptive": weights} | ({} if factor == 1 else {"factor": factor})
        for (weights, factor), some in ordered
    ]


def _is_weight(parameter: nn.Parameter) -> bool:
    """Whether it is a layer's weight: not a bias, a norm, a class token or positions.

    A transformer's class token and positions are ``[1, n, D]``. As in DeiT, they are not decayed.
    """
    token = parameter.ndim == 3 and parameter.shape[0] == 1
    return parameter.ndim > 1 and not token
