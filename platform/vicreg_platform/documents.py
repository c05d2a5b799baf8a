"""Documents that users write, in YAML or JSON, as plain data: mappings, lists, text and numbers.

What a database could not store, or a reader would not expect, is refused here, before any field is
looked at. YAML is read by the core schema of YAML 1.2: ``12:00`` and ``yes`` are text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import yaml

from vicreg_platform.errors import InvalidRequest, InvalidSpec
from vicreg_platform.specs.base import FieldFault

MAX_DEPTH = 32
"""How deep mappings and lists may be nested; the deepest field of a spec lies at 7."""
MAX_INTEGER = 2**63
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_SYNTAX_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    yaml.YAMLError,
)
"""What PyYAML raises for texts that are not YAML: not only its own error."""


def load_json(text: str | bytes) -> Any:
    """The data of a JSON document.

    Raises:
        InvalidRequest: it is not JSON, or names a field twice.
        InvalidSpec: a value cannot be stored.
    """
    try:
        data = json.loads(text, object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"this is not valid JSON: {error}") from None
    check_plain(data)
    return data


def load_yaml(text: str | bytes) -> Any:
    """The data of a YAML document; see ``load_yaml_all``."""
    documents = load_yaml_all(text)
    if len(documents) > 1:
        raise InvalidRequest(f"this holds {len(documents)} YAML documents instead of one")
    return documents[0] if documents else None


def load_yaml_all(text: str | bytes) -> list[Any]:
    """The data of the documents of a YAML text.

    Raises:
        InvalidRequest: it is not YAML, names a field twice, or uses aliases or tags.
        InvalidSpec: a value cannot be stored.
    """
    try:
        documents = list(yaml.load_all(text, _Loader))
    except _SYNTAX_ERRORS as error:
        raise InvalidRequest(f"this is not valid YAML: {error}") from None
    for data in documents:
        check_plain(data)
    return documents


def check_plain(data: Any) -> None:
    """Check that data is JSON that every database stores.

    Raises:
        InvalidSpec: with the first value that is not.
    """
    waiting = [("", data, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        fault = _fault(value, depth)
        if fault is not None:
            raise InvalidSpec([FieldFault(path[:200], fault)])
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) or _UNSTORABLE.search(key):
                    raise InvalidSpec([FieldFault(path[:200], f"{key!r} cannot name a field")])
                waiting.append((f"{path}.{key}" if path else key, item, depth + 1))
        elif isinstance(value, list):
            waiting += [(f"{path}[{i}]", item, depth + 1) for i, item in enumerate(value)]


def _fault(value: Any, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"is nested more than {MAX_DEPTH} levels deep"
    if isinstance(value, str) and _UNSTORABLE.search(value):
        return "holds a character that cannot be stored: NUL, or half of a surrogate pair"
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}"
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        return "must be less than 2^63"
    if value is None or isinstance(value, str | float | int | bool | dict | list):
        return None
    return f"must be text, a number, a list or a mapping, not {type(value).__name__}"


def _mapping(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the field '{key}' is given twice")
        result[key] = value
    return result


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them would expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = []
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, dict | list):
                raise yaml.YAMLError(f"a field cannot be named by a list or a mapping: {key}")
            name = key if isinstance(key, str) else json.dumps(key)
            pairs.append((name, self.construct_object(value_node, deep=deep)))
        return _mapping(pairs)


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _real(text: str) -> float:
    # YAML writes infinity and NaN with a dot before them.
    return float(text.replace(".", "") if text[-1].isalpha() else text)


_SCALARS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", "~nN", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF", _boolean),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789", _integer),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
        _real,
    ),
}
"""The core schema, https://yaml.org/spec/1.2.2/#103-core-schema: pattern, first letters, value."""


def _use_core_schema(loader: Any) -> None:
    """Replace PyYAML's schema, which is that of YAML 1.1."""
    loader.yaml_implicit_resolvers, loader.yaml_constructors = {}, {}
    for name, (pattern, first, value) in _SCALARS.items():
        tag = f"tag:yaml.org,2002:{name}"
        letters = [*first, ""] if name == "null" else list(first)
        loader.add_implicit_resolver(tag, re.compile(f"^(?:{pattern})$"), letters)
        loader.add_constructor(tag, partial(_construct, value))
    loader.add_constructor("tag:yaml.org,2002:str", yaml.SafeLoader.construct_yaml_str)
    loader.add_constructor("tag:yaml.org,2002:seq", yaml.SafeLoader.construct_yaml_seq)
    loader.add_constructor("tag:yaml.org,2002:map", yaml.SafeLoader.construct_yaml_map)
    loader.add_constructor(None, yaml.SafeLoader.construct_undefined)


def _construct(value: Callable[[str], Any], loader: Any, node: yaml.Node) -> Any:
    return value(loader.construct_scalar(node))


_use_core_schema(_Loader)
