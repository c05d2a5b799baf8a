"""Writes ``docs/reference`` from the code: specs, HTTP API, settings and command line.

``python docs/generate.py`` writes the pages; ``--check`` writes nothing, and fails naming the
first page that is not what the code says.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from typer.cli import get_docs_for_click

from vicreg_api.app import create_app
from vicreg_api.services import Services
from vicreg_platform.cli.commands import app as command_line
from vicreg_platform.errors import PlatformError
from vicreg_platform.schedules.spec import ScheduleSpec
from vicreg_platform.settings import Settings
from vicreg_platform.specs import EvaluateSpec, PretrainSpec, SweepSpec
from vicreg_platform.specs.augmentation import PRESETS
from vicreg_platform.specs.job import JobSpec
from vicreg_platform.specs.optimizer import LARS_PRESETS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
CONSOLE = ROOT / "api" / "console" / "openapi.json"
"""The document from which the console's types are generated."""
HEADER = "<!-- Written by docs/generate.py from the code: change the docstrings there. -->\n\n"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
HERE = f"Generated from the code of version {VERSION}."

Schema = dict[str, Any]
Group = tuple[str, ...]
"""Names of the models that one field takes."""
Titles = dict[Group, str]


def main() -> None:
    """Write the pages, or check them."""
    # The reference shows defaults, not what this shell has set.
    for name in [name for name in os.environ if name.startswith("VICREG_")]:
        del os.environ[name]
    pages = {
        "spec.md": spec_page(),
        "api.md": api_page(),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
    }
    files = {
        f"docs/reference/{name}": (REFERENCE / name, HEADER + text.rstrip() + "\n")
        for name, text in pages.items()
    }
    document = json.dumps(_without_specs(openapi()), indent=1, sort_keys=True)
    files["api/console/openapi.json"] = (CONSOLE, document + "\n")
    for name, (file, text) in files.items():
        if "--check" not in sys.argv:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.exit(f"{name} is stale: run `python docs/generate.py`")


# Specs

_ENCODER: Schema = {"job": "01a209db7de515276b09"}
_DIGITS: Schema = {"source": "digits"}
MINIMAL: dict[type[BaseModel], Schema] = {
    PretrainSpec: {"kind": "pretrain", "data": _DIGITS},
    EvaluateSpec: {
        "kind": "evaluate",
        "encoder": _ENCODER,
        "protocol": {"name": "knn"},
        "data": {"train": _DIGITS, "test": _DIGITS},
    },
    SweepSpec: {
        "kind": "sweep",
        "base": {"data": _DIGITS},
        "space": {"optimizer.base_lr": {"uniform": [0.1, 1.0]}},
    },
    ScheduleSpec: {"name": "nightly", "cron": "30 2 * * *", "job": {}},
}
"""The least that a user writes: all else has a default, which may depend on other fields."""

KINDS: dict[str, type[BaseModel]] = {
    "pretrain": PretrainSpec,
    "evaluate": EvaluateSpec,
    "sweep": SweepSpec,
    "schedule": ScheduleSpec,
}


class Root:
    """A spec model as JSON Schema, with the values that its defaults resolve to."""

    def __init__(self, kind: str) -> None:
        model = KINDS[kind]
        self.kind = kind
        self.given = MINIMAL[model]
        self.resolved = model.model_validate(self.given).model_dump(mode="json")
        self.schema = model.model_json_schema()
        self.models: dict[str, Schema] = self.schema.get("$defs", {})

    def groups(self) -> Iterator[tuple[str, Group]]:
        """Every path that takes models, nearest to the root first, and the models' names."""
        seen: set[Group] = set()
        queue = [("", self.schema)]
        while queue:
            prefix, schema = queue.pop(0)
            for name, field in schema.get("properties", {}).items():
                group = tuple(_references(field))
                if not group or group in seen:
                    continue
                seen.add(group)
                path = f"{prefix}{name}"
                yield path, group
                separator = "[]." if field.get("type") == "array" else "."
                queue += [(f"{path}{separator}", self.models[each]) for each in group]


def spec_page() -> str:
    """Every field of every spec."""
    roots = [Root(kind) for kind in KINDS]
    homes: dict[Group, tuple[str, str]] = {}
    for root in roots:
        for path, group in root.groups():
            if group not in homes or path.count(".") < homes[group][1].count("."):
                homes[group] = "job" if path in JobSpec.model_fields else root.kind, path
    taken: set[str] = set()
    titles: Titles = {}
    for group, (kind, path) in homes.items():
        titles[group] = f"`{path}` ({kind})" if path in taken else f"`{path}`"
        taken.add(path)
    links = {group: f"[{title.split(' ')[0]}](#{_slug(title)})" for group, title in titles.items()}

    parts = [
        "# Spec reference\n",
        f"{HERE} A spec is JSON or YAML. Every field has a default unless it is marked required, "
        "and the stored job holds the fully resolved spec. An unknown field is an error that names "
        "the nearest known one. `vicreg schema` prints the JSON Schema, `vicreg submit FILE "
        "--dry-run` the resolved spec, and `vicreg recipe` lists specs that are ready to submit.\n",
        "## Every kind of job\n",
        "These fields belong to all three kinds. The evaluations of a pretraining get their own; "
        "the base of a sweep takes none of them but `retry`.\n",
    ]
    shared = [name for name in JobSpec.model_fields if name not in ("kind", "name")]
    parts.append(_fields(roots[0], "", roots[0].schema, links, only=shared))
    parts += _sections("job", roots[0], homes, titles, links)
    for root in roots:
        heading = "Schedules" if root.kind == "schedule" else f"`kind: {root.kind}`"
        parts.append(f"## {heading}\n")
        parts.append(_text(root.schema["description"]) + "\n")
        own = [name for name in root.schema["properties"] if name not in shared]
        parts.append(_fields(root, "", root.schema, links, only=own))
        parts += _sections(root.kind, root, homes, titles, links)
    return "\n".join(parts)


def _sections(
    kind: str, root: Root, homes: dict[Group, tuple[str, str]], titles: Titles, links: Titles
) -> Iterator[str]:
    """The models that are at home in specs of ``kind``."""
    for group, (home, path) in homes.items():
        if home == kind:
            yield from _section(root, path, group, titles[group], links)


def _section(root: Root, path: str, group: Group, title: str, links: Titles) -> Iterator[str]:
    """The models that the field at ``path`` takes."""
    yield f"### {title}\n"
    if len(group) == 1:
        schema = root.models[group[0]]
        yield _text(schema["description"]) + "\n"
        yield _fields(root, path, schema, links)
        yield from _presets(group[0])
        return
    yield f"One of these {len(group)}.\n"
    for name in group:
        schema = root.models[name]
        tag = next(iter(schema["properties"]))
        for field, of in schema["properties"].items():
            if "const" in of and field in ("name", "source"):
                tag = f"{field}: {of['const']}"
        yield f"#### `{tag}`\n"
        yield _text(schema["description"]) + "\n"
        others = [field for field in schema["properties"] if not tag.startswith(f"{field}:")]
        if others:
            yield _fields(root, path, schema, links, only=others)
        yield from _presets(name)


def _fields(
    root: Root,
    path: str,
    schema: Schema,
    links: Titles,
    only: list[str] | None = None,
) -> str:
    rows = []
    given, resolved = _at(root.given, path), _at(root.resolved, path)
    if not _describes(schema, resolved):
        given, resolved = {}, {}
    for name, field in schema["properties"].items():
        if only is not None and name not in only:
            continue
        default = "required"
        if name in resolved and name not in given:
            default = _default(field, resolved[name])
        elif name not in schema.get("required", []):
            default = _default(field, field.get("default"))
        group = tuple(_references(field))
        written = links.get(group) or _type(field, {})
        if group and field.get("type") == "array":
            written = f"list, each: {written}"
        elif group and field.get("type") == "object":
            written = f"mapping of paths, each to one {written}"
        elif group and {"type": "null"} in field.get("anyOf", ()):
            written += " or null"
        rows.append((f"`{name}`", written, default, _text(field.get("description", ""))))
    return _table(("field", "type", "default", "meaning"), rows)


def _describes(schema: Schema, value: Any) -> bool:
    """Whether ``value`` is of this model, not of another one of its union."""
    if not isinstance(value, dict) or not value.keys() <= schema["properties"].keys():
        return False
    fields = schema["properties"].items()
    return all(value.get(name) == field["const"] for name, field in fields if "const" in field)


def _presets(model: str) -> Iterator[str]:
    presets = {"Augmentation": PRESETS, "Lars": LARS_PRESETS}.get(model)
    if presets is None:
        return
    yield "The presets; a field that is given replaces the preset's:\n"
    names = next(iter(presets.values()))
    rows = [
        (f"`{name}`", *(f"`{json.dumps(preset[name])}`" for preset in presets.values()))
        for name in names
    ]
    yield _table(("field", *(f"`{preset}`" for preset in presets)), rows)


def _at(value: Any, path: str) -> Schema:
    for part in path.split(".") if path else ():
        value = value.get(part, {}) if isinstance(value, dict) else {}
    return value if isinstance(value, dict) else {}


def _default(field: Schema, value: Any) -> str:
    """A default in words: that of a model is in the model's own section."""
    if isinstance(value, dict) and _references(field):
        name = next((value[tag] for tag in ("name", "source") if tag in value), None)
        return f"`{name}`" if name else ""
    return f"`{json.dumps(value)}`"


# HTTP API


def openapi() -> Schema:
    """The document that the API serves."""
    settings = Settings.from_environment(database_url="sqlite://")  # in memory: no file is made
    return create_app(Services.of(settings)).openapi()


def _without_specs(document: Schema) -> Schema:
    """The document without the specs in it: the console sends them as text."""
    for operations in document["paths"].values():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            if "application/yaml" in content:
                operation["requestBody"]["content"] = {kind: {"schema": {}} for kind in content}
    return document


def api_page() -> str:
    """Every route, and what it answers."""
    document = openapi()
    schemas: dict[str, Schema] = document["components"]["schemas"]
    # FastAPI's Page_JobSchema_ is titled Page[JobSchema]: here, Page of JobSchema.
    titles = {
        name: schema["title"].replace("[", " of ").replace("]", "")
        for name, schema in schemas.items()
        if name not in NOT_LISTED
    }
    links = {name: f"[{title}](#{_slug(title)})" for name, title in titles.items()}
    links["ScheduleSpec"] = "[schedule](spec.md#schedules)"
    parts = [
        "# HTTP API reference\n",
        f"{HERE} The API answers JSON under `/v1`; `/docs` on a running API tries it in the "
        "browser. If there are API keys, send one as `Authorization: Bearer KEY`: every route "
        "under `/v1` then also answers 401 without a valid key, 403 if the key's role does not "
        "allow the request, and 429 if the key makes too many requests that change something. "
        "Lists answer "
        "`{items, next_cursor}`: pass `next_cursor` as `cursor` to get the next page.\n",
    ]
    tag = ""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if operation["tags"][0] != tag:
                tag = operation["tags"][0]
                parts.append(f"## {tag.capitalize()}\n")
            parts.append(f"### `{method.upper()} {path}`\n")
            parts.append(_text(operation["description"]) + "\n")
            parts += _request(operation, tag, links)
            parts.append(_answers(operation, links))
    parts += ["## Errors\n", _errors(), "## Schemas\n"]
    for name, title in titles.items():
        schema = schemas[name]
        parts.append(f"### {title}\n")
        parts.append(_text(schema.get("description", "")) + "\n")
        if "enum" in schema:
            parts.append(f"One of {_either(f'`{value}`' for value in schema['enum'])}.\n")
            continue
        rows = [
            (f"`{field}`", _type(of, links), _text(of.get("description", "")))
            for field, of in schema["properties"].items()
        ]
        parts.append(_table(("field", "type", "meaning"), rows))
    return "\n".join(parts)


NOT_LISTED = ("HTTPValidationError", "ValidationError", "ScheduleSpec")
"""FastAPI's own answer to a bad request, which a problem replaces; and what is in spec.md."""
BODIES = {"jobs": "[spec](spec.md)", "schedules": "[schedule](spec.md#schedules)"}
"""What a body that is checked by the platform, not by FastAPI, holds."""


def _request(operation: Schema, tag: str, links: dict[str, str]) -> Iterator[str]:
    rows = [
        (
            f"`{each['name']}`",
            each["in"],
            _type(each["schema"], links),
            f"`{json.dumps(each['schema']['default'])}`" if "default" in each["schema"] else "",
            _text(each.get("description", "")),
        )
        for each in operation.get("parameters", [])
    ]
    if rows:
        yield _table(("parameter", "in", "type", "default", "meaning"), rows)
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        body = _type(schema, links) if _references(schema) else BODIES[tag]
        yield f"Body: {body}, as {_either(f'`{kind}`' for kind in content)}.\n"


def _answers(operation: Schema, links: dict[str, str]) -> str:
    rows = []
    for status, answer in sorted(operation["responses"].items()):
        media: list[Schema] = list(answer.get("content", {}).values())
        content = media[0].get("schema", {}) if media else {}
        known = all(name in links for name in _references(content))
        what = _type(content, links) if content and known else "[Problem](#problem)"
        if not media:
            what = ""
        meaning = answer["description"].replace("Successful Response", "")
        rows.append((f"`{status}`", what, _text(meaning)))
    return _table(("status", "answer", "meaning"), rows)


def _errors() -> str:
    def below(error: type[PlatformError]) -> Iterator[type[PlatformError]]:
        for each in error.__subclasses__():
            if each.__module__ == PlatformError.__module__:
                yield each
                yield from below(each)

    kinds = {error.code: error for error in below(PlatformError)} | {"internal": PlatformError}
    rows = [
        (f"`{error.status}`", f"`{code}`", _text(error.__doc__ or ""))
        for code, error in sorted(kinds.items(), key=lambda kind: (kind[1].status, kind[0]))
        if code != "internal"
    ]
    rows.append(("`500`", "`internal`", "A defect of the platform: the API's log says more."))
    return (
        "An error is a [Problem](#problem) (RFC 9457, `application/problem+json`) with a stable "
        "`code`. A refused spec lists every fault under `errors`, field by field. A 503 carries "
        "`Retry-After`, and so does a 429.\n\n"
    ) + _table(("status", "code", "meaning"), rows)


# Settings


def settings_page() -> str:
    """Every environment variable of the platform."""
    home = Path(".vicreg").absolute()
    defaults = Settings.from_environment()
    rows = []
    for name, field in Settings.model_json_schema()["properties"].items():
        value = getattr(defaults, name)
        shown = "" if value is None else f"`{value}`".replace(str(home), "$VICREG_HOME")
        if name == "home":
            shown = "`.vicreg`"
        scalar = "$ref" not in field and "array" not in json.dumps(field)
        kind = _type(field, {}).removesuffix(" or null") if scalar else "text"
        rows.append((f"`VICREG_{name.upper()}`", kind, shown, _text(field.get("description", ""))))
    return "\n".join(
        [
            "# Settings reference\n",
            f"{HERE} The API, the dispatcher and the command line read these environment "
            "variables. What is not set is as `vicreg up` has it.\n",
            _table(("variable", "type", "default", "meaning"), rows),
            "Clients read `VICREG_API_URL` (default `http://127.0.0.1:8000`), the API's address, "
            "and `VICREG_API_KEY`. A Ray node may set `VICREG_GIT_COMMIT`, the commit that runs "
            "remember; by default it is the checkout's.\n",
        ]
    )


# Command line


def cli_page() -> str:
    """Every command, as Typer documents it."""
    command = typer.main.get_command(command_line)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="vicreg", title="Command line reference"
    )
    return str(text).replace("\n\n", f"\n\n{HERE} ", 1)


# Words


def _type(schema: Schema, links: dict[str, str]) -> str:
    """A JSON Schema in words."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return links.get(name, name)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return _either(f"`{json.dumps(value).strip(chr(34))}`" for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return _either(_type(each, links) for each in schema[union])
    match schema.get("type"):
        case "string":
            return _FORMATS.get(schema.get("format", ""), "text")
        case "boolean":
            return "`true` or `false`"
        case "integer" | "number" as kind:
            return f"{kind}{_bounds(schema)}"
        case "array" if "prefixItems" in schema:
            return f"({', '.join(_type(each, links) for each in schema['prefixItems'])})"
        case "array" | "object" as kind:
            of = "list of" if kind == "array" else "mapping to"
            values = [_type(each, links) for each in _values(schema)]
            return f"{of} {values[0]}" if values else of.split()[0]
        case "null":
            return "null"
    return "any"


_FORMATS = {
    "date-time": "moment with its time zone",
    "duration": "duration",
    "path": "path",
}


def _bounds(schema: Schema) -> str:
    """Bounds as an interval: a round bracket leaves its end out."""
    low = next((key for key in ("minimum", "exclusiveMinimum") if key in schema), None)
    high = next((key for key in ("maximum", "exclusiveMaximum") if key in schema), None)
    if low and high:
        opening, closing = "[("[low != "minimum"], "])"[high != "maximum"]
        return f" in {opening}{schema[low]:.10g}, {schema[high]:.10g}{closing}"
    if low:
        return f" {'≥' if low == 'minimum' else '>'} {schema[low]:.10g}"
    return ""


def _references(schema: Schema) -> list[str]:
    """The models that a field takes, itself or in a list or mapping."""
    if "$ref" in schema:
        return [schema["$ref"].rsplit("/", 1)[-1]]
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *_values(schema)]
    return [name for each in inner for name in _references(each)]


def _values(schema: Schema) -> list[Schema]:
    """What a list or a mapping holds."""
    inner = [schema.get("items"), schema.get("additionalProperties")]
    inner += schema.get("patternProperties", {}).values()
    return [each for each in inner if isinstance(each, dict) and each]


def _either(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _text(docstring: str) -> str:
    """A docstring as one paragraph a paragraph, in Markdown's code spans."""
    paragraphs = [" ".join(each.split()) for each in docstring.split("\n\n")]
    return re.sub(r"``(.+?)``", r"`\1`", "\n\n".join(paragraphs)).strip()


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    cells = [[cell.replace("\n\n", " ").replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def _slug(title: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


if __name__ == "__main__":
    main()
