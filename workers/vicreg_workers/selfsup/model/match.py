"""Finds a backbone's weights in a file of any published form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

NAMED = 5
"""Names that do not fit and are listed; the others are counted."""


@dataclass(frozen=True)
class Match:
    """What of some weights fits a backbone."""

    state: dict[str, Tensor]
    """What fits, by the backbone's names."""
    misfits: tuple[str, ...]
    """What does not, in words, each with its shape."""
    share: float
    """Of the backbone's numbers that are found, in [0, 1]."""

    def described(self) -> str:
        """The misfits, in one line."""
        listed = "; ".join(self.misfits[:NAMED])
        more = len(self.misfits) - NAMED
        return f"{listed}; and {more} more" if more > 0 else listed


def match_weights(weights: Mapping[str, Any], backbone: nn.Module) -> Match:
    """Compare weights with those that a backbone has.

    They may lie in a mapping of the file (``model``, ``state_dict``, ``teacher``) and have a prefix
    (``module.backbone.``, ``encoder.``): the ones with which most of the backbone's names are found
    with their shapes are taken. A teacher goes before its student, a first branch before a
    second. What belongs to no part of the backbone, such as a classifier or an expander, is
    ignored, and so is a missing counter of BatchNorm.

    Args:
        weights: what the file holds.
        backbone: the network they are for.
    """
    expected = backbone.state_dict()
    best = max(
        _candidates(weights, expected),
        key=lambda each: each[0],
        default=((0, 0, 0), {}, ""),
    )
    _, found, prefix = best
    given = {
        name.removeprefix(prefix): value
        for name, value in found.items()
        if name.startswith(prefix) and isinstance(value, Tensor)
    }
    state: dict[str, Tensor] = {}
    misfits: list[str] = []
    for name, own in expected.items():
        other = given.get(name)
        if other is None:
            if not name.endswith("num_batches_tracked"):
                misfits.append(f"{name} {_shape(own)} is missing")
        elif other.shape != own.shape:
            misfits.append(f"{name} is {_shape(other)} there and {_shape(own)} here")
        else:
            state[name] = other
    misfits += [
        f"{name} {_shape(value)} has no place here"
        for name, value in given.items()
        if name not in expected and _has_a_place(name, backbone)
    ]
    total = sum(value.numel() for value in expected.values())
    share = sum(value.numel() for value in state.values()) / max(total, 1)
    return Match(state, tuple(misfits), share)


def _candidates(
    weights: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> Iterator[tuple[tuple[int, int, int], Mapping[str, Any], str]]:
    """Each mapping of the file with each prefix in it, and how well it does."""
    for place, (name, mapping) in enumerate(_mappings(weights)):
        fitting: Counter[str] = Counter()
        for key, value in mapping.items():
            if not isinstance(value, Tensor):
                continue
            parts = key.split(".")
            for cut in range(len(parts)):
                own = expected.get(".".join(parts[cut:]))
                if own is not None and own.shape == value.shape:
                    fitting["".join(f"{part}." for part in parts[:cut])] += 1
        preferred = 1 if name in ("teacher", "model_ema") else 0
        for prefix, count in fitting.items():
            order = preferred * 1000 - place
            yield (count, order, -len(prefix)), mapping, prefix


def _mappings(weights: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "", weights
    for name, value in weights.items():
        if isinstance(value, Mapping):
            yield str(name), {str(key): inner for key, inner in value.items()}


def _has_a_place(name: str, backbone: nn.Module) -> bool:
    """Whether a name that the backbone does not have is of one of its parts."""
    module = backbone
    path = name.split(".")
    for depth, part in enumerate(path):
        child = module._modules.get(part)
        if child is None:
            return depth > 0
        if isinstance(child, nn.Identity):
            return False
        module = child
    return True


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
