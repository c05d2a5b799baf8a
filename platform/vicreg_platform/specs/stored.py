"""Reads the specs that any version of the platform has stored.

A spec is stored with the version that wrote it. Reading one upgrades it step by step to this
version, skips fields that this version no longer knows, and fills in those it has gained. What
still cannot be read is an ``Unreadable``, never an exception: one such spec must not stop a queue,
a list, a schedule or a quota.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.specs import AnySpec, Spec
from vicreg_platform.specs.base import UNKNOWN_FIELD, FieldFault, field_faults, without_faulty

VERSION = 6
"""The version of stored specs. Raise it with every field that is added, renamed or removed, so
that an older version does not run a job without a field that it does not know."""

Value = TypeVar("Value")
Upgrades = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]


def _cropped_by_pillow(stored: dict[str, Any]) -> dict[str, Any]:
    """A spec from before ``augmentation.resample``: one that resumes keeps its views."""
    if isinstance(base := stored.get("base"), dict):
        return stored | {"base": _cropped_by_pillow(base)}
    augmentation = stored.get("augmentation", {})
    if stored.get("kind") != "pretrain" or not isinstance(augmentation, dict):
        return stored
    return stored | {"augmentation": {"resample": "pillow"} | augmentation}


_UPGRADES: Upgrades = {2: _cropped_by_pillow}
"""By version: turns a spec of it into one of the next."""


@dataclass(frozen=True)
class Unreadable:
    """A stored spec that this version cannot read."""

    reason: str
    """In words for the user."""


def read_spec(stored: object, version: int | None) -> AnySpec | Unreadable:
    """The typed spec of a stored job.

    Args:
        stored: as it is in the database.
        version: that wrote it; None is 1: version 0.2.0 did not say.
    """
    return read_stored(_ADAPTER, AnySpec, stored, version, _UPGRADES)


def require_spec(stored: object, version: int | None) -> AnySpec:
    """``read_spec``, for what cannot be done without it.

    Raises:
        InvalidSpec: this version cannot read it.
    """
    spec = read_spec(stored, version)
    if isinstance(spec, Unreadable):
        raise InvalidSpec([FieldFault("", f"the spec is unreadable: {spec.reason}")])
    return spec


def read_stored(
    adapter: TypeAdapter[Value],
    model: Any,
    stored: object,
    version: int | None,
    upgrades: Upgrades,
) -> Value | Unreadable:
    """A stored value as this version's model of it.

    Args:
        adapter: validates the model.
        model: the model, or the tagged union of models.
        stored: as it is in the database.
        version: that wrote it; None is 1.
        upgrades: by version, what turns a value of it into one of the next.
    """
    if not isinstance(stored, dict):
        return Unreadable("it is not a mapping of fields")
    written = 1 if version is None else version
    for step in range(written, VERSION):
        if step in upgrades:
            stored = upgrades[step](stored)
    while True:
        try:
            return adapter.validate_python(stored)
        except ValidationError as error:
            faults = field_faults(model, stored, error)
        if written > VERSION:
            text = _text(faults)
            return Unreadable(f"it was submitted to a newer version of the platform: {text}")
        # What lies inside a field is checked only once the field itself is valid: hence the loop.
        unknown = [fault for fault in faults if _can_be_skipped(fault)]
        if not unknown:
            return Unreadable(_text(faults))
        stored = without_faulty(stored, unknown)


def _can_be_skipped(fault: FieldFault) -> bool:
    # Without one of the fields that it searches, a sweep would be another one.
    return fault.message.startswith(UNKNOWN_FIELD) and not fault.field.startswith("space.")


def _text(faults: list[FieldFault]) -> str:
    return "; ".join(f"{fault.field}: {fault.message}" for fault in faults[:3])


_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(Spec)
