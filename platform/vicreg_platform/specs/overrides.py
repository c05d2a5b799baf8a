"""Overrides some fields of a spec."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

MAX_PARTS = 32
"""Of a dotted name; what is beyond them is one part, and names no field."""


def without_values(spec: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy of ``spec`` without the values at dotted ``paths``; mappings there stay.

    Args:
        spec: a spec as its user wrote it.
        paths: fields that something else sets.
    """
    result = copy.deepcopy(spec)
    for path in paths:
        *parents, last = path.split(".", MAX_PARTS)
        node: Any = result
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if isinstance(node, dict) and not isinstance(node.get(last), dict):
            node.pop(last, None)
    return result


def overridden(spec: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``spec`` with some values replaced.

    Args:
        spec: a spec as its user wrote it.
        overrides: values by field: nested (``{"training": {"epochs": 5}}``), dotted
            (``{"training.epochs": 5}``), or both. A list replaces a list.
    """
    result = copy.deepcopy(spec)
    for name, value in overrides.items():
        *parents, last = name.split(".", MAX_PARTS)
        node = result
        for parent in parents:
            child = node.get(parent)
            node[parent] = child = child if isinstance(child, dict) else {}
            node = child
        if isinstance(value, dict) and isinstance(node.get(last), dict):
            node[last] = overridden(node[last], value)
        else:
            node[last] = value
    return result
