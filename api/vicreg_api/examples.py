"""The request bodies in the OpenAPI document, with examples that work when pasted."""

from __future__ import annotations

from typing import Any

from vicreg_platform.recipes import load_recipe
from vicreg_platform.schedules.spec import ScheduleSpec
from vicreg_platform.specs import spec_schema

_EXAMPLES = {
    "pretrain": {
        "summary": "VICReg on scikit-learn's handwritten digits",
        "value": load_recipe("digits"),
    },
    "evaluate": {
        "summary": "The same network, untrained, by nearest neighbours",
        "value": load_recipe("digits-untrained"),
    },
}


_NIGHTLY = {
    "name": "nightly",
    "cron": "30 2 * * *",
    "timezone": "Europe/Paris",
    "job": load_recipe("digits") | {"name": "digits {{ scheduled_time }}"},
}


def _content(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    # OpenAPI keeps shared schemas elsewhere; in a body they are resolved in place.
    definitions = schema.pop("$defs", {})
    body = {"schema": _resolved(schema, definitions), "examples": examples}
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": body, "application/yaml": body},
        }
    }


def _resolved(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            name = str(node["$ref"]).rsplit("/", 1)[-1]
            return _resolved(definitions[name], definitions)
        return {
            key: _resolved(value, definitions)
            for key, value in node.items()
            if key not in ("$schema", "discriminator")
        }
    if isinstance(node, list):
        return [_resolved(item, definitions) for item in node]
    return node


JOB_BODY = _content(spec_schema(), _EXAMPLES)
SCHEDULE_BODY = _content(
    ScheduleSpec.model_json_schema(),
    {"nightly": {"summary": "A pretraining every night", "value": _NIGHTLY}},
)
