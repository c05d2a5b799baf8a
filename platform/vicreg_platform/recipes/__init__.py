"""Ready-made specs, shipped with the package.

A recipe is a spec, or an ablation: ``scales`` names base specs, ``variants`` what each job changes
in them (a list for all scales, or one for each). The recipe ``NAME-SCALE`` is then a file of
several specs, one YAML document each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import yaml

from vicreg_platform.errors import NotFound
from vicreg_platform.specs.overrides import overridden


def recipe_names() -> list[str]:
    """The names of the recipes."""
    return sorted(_recipes())


def recipe_text(name: str) -> str:
    """A recipe as text; a single spec includes its comments.

    Raises:
        NotFound: there is no such recipe.
    """
    recipes = _recipes()
    if name not in recipes:
        raise NotFound(f"there is no recipe '{name}': there are {', '.join(sorted(recipes))}")
    recipe = recipes[name]
    if isinstance(recipe, str):
        return recipe
    # Not for all of them: it takes half a second.
    return yaml.safe_dump_all(recipe, sort_keys=False, width=100, allow_unicode=True)


def recipes_of_one_job() -> Iterator[tuple[str, str, str]]:
    """The recipes that are one spec each: name, what its first comment says, and text."""
    for name, recipe in sorted(_recipes().items()):
        if isinstance(recipe, str):
            lines = itertools.takewhile(lambda line: line.startswith("#"), recipe.splitlines())
            yield name, " ".join(line.lstrip("# ") for line in lines), recipe


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe of one spec, as data."""
    recipe: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return recipe


def _recipes() -> dict[str, str | list[dict[str, Any]]]:
    """The text of each recipe, or the specs of an ablation, by its name."""
    recipes: dict[str, str | list[dict[str, Any]]] = {}
    for entry in files(__name__).iterdir():
        if not entry.name.endswith(".yaml"):
            continue
        name, text = entry.name.removesuffix(".yaml"), entry.read_text()
        content = yaml.safe_load(text)
        if "variants" not in content:
            recipes[name] = text
            continue
        variants = content["variants"]
        for scale, base in content["scales"].items():
            chosen = variants[scale] if isinstance(variants, dict) else variants
            recipes[f"{name}-{scale}"] = [overridden(base, variant) for variant in chosen]
    return recipes
