"""Bodies that work when pasted: the recipes that need no data on disk."""

from __future__ import annotations

from typing import Any

from vicreg_platform.recipes import load_recipe
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


def _body() -> dict[str, Any]:
    schema = spec_schema()
    definitions = schema.pop("$defs")
    # OpenAPI keeps shared schemas elsewhere; in one body they are resolved in place.
    return {"schema": _resolved(schema, definitions), "examples": _EXAMPLES}


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


JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": _body(), "application/yaml": _body()},
    }
}
