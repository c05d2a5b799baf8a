"""Ready-made specs, shipped with the package.

A recipe is a spec, or an ablation: ``scales`` names base specs, ``variants`` what each job changes
in them (a list for all scales, or one for each). The recipe ``NAME-SCALE`` is then a file of
several specs, one YAML document each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    return recipes[name]()


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe of one spec, as data."""
    recipe: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return recipe


def _recipes() -> dict[str, Callable[[], str]]:
    """What makes the text of each recipe, by its name."""
    texts: dict[str, Callable[[], str]] = {}
    for entry in files(__name__).iterdir():
        if not entry.name.endswith(".yaml"):
            continue
        name, text = entry.name.removesuffix(".yaml"), entry.read_text()
        content = yaml.safe_load(text)
        if "variants" not in content:
            texts[name] = partial(str, text)
            continue
        variants = content["variants"]
        for scale, base in content["scales"].items():
            chosen = variants[scale] if isinstance(variants, dict) else variants
            texts[f"{name}-{scale}"] = partial(_ablation, base, chosen)
    return texts


def _ablation(base: dict[str, Any], variants: list[dict[str, Any]]) -> str:
    return yaml.safe_dump_all(
        [overridden(base, variant) for variant in variants],
        sort_keys=False,
        width=100,
        allow_unicode=True,
    )
