"""Overrides some fields of a spec."""

from __future__ import annotations

import copy
from typing import Any


def overridden(spec: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``spec`` with some values replaced.

    Args:
        spec: a spec as its user wrote it.
        overrides: values by field: nested (``{"training": {"epochs": 5}}``), dotted
            (``{"training.epochs": 5}``), or both. A list replaces a list.
    """
    result = copy.deepcopy(spec)
    for name, value in overrides.items():
        *parents, last = name.split(".")
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
