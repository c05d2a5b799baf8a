"""The base of every spec model, and the faults of a refused spec, field by field."""

from __future__ import annotations

import difflib
import re
import typing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$"
    ),
]


def _taggable(key: str) -> str:
    # MLflow refuses tags whose name is not the shortest path to itself.
    if {"", ".", ".."} & set(key.split("/")):
        raise ValueError("the parts between slashes must not be empty, '.' or '..'")
    return key


LabelKey = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$"),
    AfterValidator(_taggable),
]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f]*$")]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


def _no_number(value: Any) -> Any:
    # pydantic takes a number for seconds since 1970: 20301224 would be in August 1970.
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("must be a moment with a time zone, such as 2026-12-24T18:00:00+01:00")
    return value


_NUMBER = re.compile(r"\s*[-+]?[0-9.]+\s*")
Moment = Annotated[AwareDatetime, BeforeValidator(_no_number), AfterValidator(_in_utc)]
"""A moment with a time zone, in UTC."""


def _seconds_or_iso(value: Any) -> Any:
    # 12:00 would be twelve hours to one reader, and twelve minutes to another.
    if isinstance(value, str) and "P" not in value[:2]:
        raise ValueError("must be seconds, or as in PT12H")
    return value


TimeSpan = Annotated[timedelta, BeforeValidator(_seconds_or_iso)]
"""Seconds, or an ISO 8601 duration."""


class SpecModel(BaseModel):
    """A frozen model that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def by_field(kind: str, names: tuple[str, ...]) -> Discriminator:
    """Selects the model of a union: the one whose tag is the first of ``names`` in the data.

    Args:
        kind: what the union describes, for the error message.
        names: the tags, each a field of its model.
    """

    def which(value: Any) -> str | None:
        if not isinstance(value, (dict, BaseModel)):
            return None
        given = value if isinstance(value, dict) else vars(value)
        return next((name for name in names if name in given), None)

    return Discriminator(
        which,
        custom_error_type=kind,
        custom_error_message=f"must name the {kind} by one of: {', '.join(names)}",
    )


UNKNOWN_FIELD = "unknown field"
"""How the message of a fault begins if the field is not one of the model's."""


@dataclass(frozen=True)
class FieldFault:
    """One fault of a spec: the dotted path of a field, and what is wrong with it."""

    field: str
    message: str


class CrossFieldError(PydanticCustomError):
    """Raised by a model's validator for fields that are valid alone but not together.

    Args:
        faults: ``(fields, message)`` of each; it is reported at the first of its fields.
    """

    def __new__(cls, faults: list[tuple[tuple[str, ...], str]]) -> CrossFieldError:
        """Carry the faults to ``field_faults``."""
        return super().__new__(cls, "cross_field", "fields do not fit together", {"faults": faults})


def field_faults(model: Any, data: object, error: ValidationError) -> list[FieldFault]:
    """Every fault of ``error``, located by the fields that the user wrote.

    Args:
        model: the model (or tagged union of models) that ``data`` was checked against.
        data: what the user sent.
        error: pydantic's error for it.
    """
    return [
        fault for item in error.errors(include_url=False) for fault in _faults(model, data, item)
    ]


def cross_faults(
    model: Any, data: object, error: ValidationError, faulty: set[str]
) -> list[FieldFault]:
    """The cross-field faults of ``error`` that concern none of the ``faulty`` fields.

    Args:
        model: as of ``field_faults``.
        data: as of ``field_faults``.
        error: pydantic's error for it.
        faulty: dotted paths.
    """
    found: list[FieldFault] = []
    for item in error.errors(include_url=False):
        path, _ = _locate(model, data, item["loc"])
        for fields, message in item.get("ctx", {}).get("faults", []):
            places = [_dotted([*path, field]) for field in fields]
            if not any(overlap(place, fault) for place in places for fault in faulty):
                found.append(FieldFault(places[0], message))
    return found


def without_faulty(data: Any, faults: list[FieldFault]) -> Any:
    """A copy of ``data`` without the faulty fields, so that they take their defaults."""
    faulty = {fault.field for fault in faults}

    def prune(node: Any, path: str) -> Any:
        if isinstance(node, dict):
            named = {key: f"{path}.{key}" if path else str(key) for key in node}
            return {k: prune(v, named[k]) for k, v in node.items() if named[k] not in faulty}
        if isinstance(node, list):
            named = {index: f"{path}[{index}]" for index in range(len(node))}
            return [prune(v, named[i]) for i, v in enumerate(node) if named[i] not in faulty]
        return node

    return prune(data, "")


def overlap(field: str, other: str) -> bool:
    """Whether one of two dotted paths is, or lies within, the other."""
    return field == other or field.startswith(f"{other}.") or other.startswith(f"{field}.")


def _faults(model: Any, data: object, item: ErrorDetails) -> list[FieldFault]:
    path, owners = _locate(model, data, item["loc"])
    context = item.get("ctx", {})
    message = item["msg"].removeprefix("Value error, ")
    match item["type"]:
        case "cross_field":
            return [
                FieldFault(_dotted([*path, fields[0]]), text) for fields, text in context["faults"]
            ]
        case "extra_forbidden":
            message = _unknown(path[-1], owners)
        case "missing":
            message = "this field is required"
        case "model_type" | "model_attributes_type" | "dict_type":
            message = "must be a mapping of fields"
        case "union_tag_invalid":
            path = [*path, context["discriminator"].strip("'")]
            message = f"'{context['tag']}' is not one of {context['expected_tags']}"
        case "union_tag_not_found":
            path = [*path, context["discriminator"].strip("'")]
            message = "this field is required"
    return [FieldFault(_dotted(path), message)]


def _unknown(name: str | int, owners: list[type[BaseModel]]) -> str:
    fields = [field for owner in owners for field in owner.model_fields.items()]
    known = sorted({field.alias or name for name, field in fields})
    nearest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    if nearest:
        return f"{UNKNOWN_FIELD}; did you mean '{nearest[0]}'?"
    return f"{UNKNOWN_FIELD}; known here: {', '.join(known)}"


def _dotted(path: list[str | int]) -> str:
    dotted = ""
    for part in path:
        dotted += f"[{part}]" if isinstance(part, int) else f".{part}" if dotted else part
    return dotted


def _locate(
    model: Any, data: object, location: tuple[int | str, ...]
) -> tuple[list[str | int], list[type[BaseModel]]]:
    """The path of a fault without pydantic's union tags, and the models that contain its last part.

    pydantic puts the tag of a discriminated union into the location ("method", "vicreg",
    "variance"): a part that is not a key of the data at that place is such a tag, except the
    last part of a missing field.
    """
    path: list[str | int] = []
    node: object = data
    owners = _models(model)
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(part, int) and isinstance(node, list):
            path.append(part)
            # What is missing from a pair has a place, too.
            node = node[part] if part < len(node) else None
        elif isinstance(node, dict) and part in node:
            path.append(part)
            node = node[part]
            if not last:
                owners = _field_models(owners, part)
        elif last and any(part in owner.model_fields for owner in owners):
            path.append(part)
        else:
            owners = [owner for owner in owners if _tag(owner) == part] or owners
    return path, owners


def _field_models(owners: list[type[BaseModel]], name: int | str) -> list[type[BaseModel]]:
    fields = [owner.model_fields[str(name)] for owner in owners if name in owner.model_fields]
    return [model for field in fields for model in _models(field.annotation)]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _tag(model: type[BaseModel]) -> object:
    for name in ("kind", "name", "source"):
        if name in model.model_fields:
            values = typing.get_args(model.model_fields[name].annotation)
            if len(values) == 1:
                return values[0]
    return None
