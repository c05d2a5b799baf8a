"""The faults of a refused spec, each with the line of the file that it is about."""

from __future__ import annotations

from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape

from vicreg_platform.client import ApiError


def print_faults(console: Console, file: Path, document: int, error: ApiError) -> None:
    """Print each fault of a spec with its line.

    Args:
        console: where to print.
        file: holds the spec.
        document: the number of the YAML document in the file, from 0; empty ones do not count.
        error: the refusal.
    """
    lines = _lines_of_fields(file.read_text(), document)
    for fault in error.problem.get("errors", []):
        field = fault["field"]
        line = _nearest_line(lines, field)
        where = f"{file}:{line}" if line else str(file)
        console.print(f"[bold]{escape(where)}[/]: {escape(field)}: {escape(fault['message'])}")


def _nearest_line(lines: dict[str, int], field: str) -> int | None:
    """The line of the field, or of the nearest enclosing section that is in the file."""
    while field:
        if field in lines:
            return lines[field]
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return lines.get("")


def _lines_of_fields(text: str, document: int) -> dict[str, int]:
    """The line of every field of a YAML or JSON document, counted from 1."""
    lines: dict[str, int] = {}

    def walk(node: yaml.Node, path: str, line: int) -> None:
        lines[path] = line
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                walk(value, f"{path}.{key.value}" if path else key.value, key.start_mark.line + 1)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                walk(item, f"{path}[{index}]", item.start_mark.line + 1)

    roots = [root for root in yaml.compose_all(text) if not _is_empty(root)]
    walk(roots[document], "", roots[document].start_mark.line + 1)
    return lines


def _is_empty(root: yaml.Node | None) -> bool:
    return root is None or root.tag == "tag:yaml.org,2002:null"
