"""Documents that users write: what is read, and what is refused before any field is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from vicreg_platform.documents import load_json, load_yaml, load_yaml_all
from vicreg_platform.errors import InvalidRequest, InvalidSpec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5), ("-0o17", "-0o17"), ("0o17", 15), ("0x1F", 31), ("010", 10), ("1_000", "1_000"),
        ("5.0", 5.0), ("1e-3", 0.001), (".5", 0.5), ("1.5.0", "1.5.0"),
        ("true", True), ("yes", "yes"), ("off", "off"), ("null", None), ("", None), ("~", None),
        ("12:00", "12:00"), ("1:30:00", "1:30:00"), ("2026-12-24", "2026-12-24"),
        ("2026-12-24T18:00:00+01:00", "2026-12-24T18:00:00+01:00"),
        ("[1, a]", [1, "a"]), ("{a: {b: 1}}", {"a": {"b": 1}}), ("{1: a, true: b}",
        {"1": "a", "true": "b"}), ("!!str 5", "5"), ("!!int 5", 5),
    ],
)  # fmt: skip
def test_yaml_is_read_by_its_core_schema(text: str, value: Any) -> None:
    read = load_yaml(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "!!int ''", "!!int 1:2:3", "!!float ''", "!!bool x", "!!timestamp 2026", "!!binary x",
        "!!python/name:os.system", "!!set {a}", "a: [1", "a: &x 1\nb: *x", "{[a]: 1}", "\x07",
        "a: 1\na: 2", "a: {b: 1, b: 1}", "a: 1\n---\nb: 2",
    ],
)  # fmt: skip
def test_what_is_no_yaml_of_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        load_yaml(text)


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": {"b": 1, "b": 1}}', "{", "", "[" * 9999]
)
def test_what_is_no_json_of_ours_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        load_json(text)


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("load", [load_json, load_yaml])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": "\\u0000"}}', "a.b: holds a character that cannot be stored"),
        ('{"a": ["\\ud800"]}', r"a\[0\]: holds a character that cannot be stored"),
        ('{"\\ud800": 1}', "cannot name a field"),
        ('{"a": 9223372036854775808}', "a: must be less than 2"),
        ('{"a": 1e999}', "a: must be a finite number"),
        (f'{{"a": {deep(300)}}}', "nested more than 32 levels deep"),
    ],
)
def test_what_no_database_stores_is_refused(
    load: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(InvalidSpec, match=message):
        load(text)


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}'])
def test_json_without_numbers_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="must be a finite number"):
        load_json(text)


def test_several_documents_are_read_in_order() -> None:
    assert load_yaml_all("a: 1\n---\nb: 2\n---\n") == [{"a": 1}, {"b": 2}, None]


@pytest.mark.parametrize(
    "text", ["!!int 1" + ":1" * 250_000, "a: " + "1:" * 250_000, "9" * 500_000]
)
def test_a_long_number_takes_no_time(text: str) -> None:
    started = time.process_time()
    with suppress(InvalidRequest, InvalidSpec):
        load_yaml(text)
    assert time.process_time() - started < 5  # sexagesimal, it was more than a minute
