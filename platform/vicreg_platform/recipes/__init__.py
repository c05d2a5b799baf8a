"""Ready specs, shipped with the package."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from vicreg_platform.errors import NotFound


def recipe_names() -> list[str]:
    """The recipes there are."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """A recipe as it was written, comments included.

    Raises:
        NotFound: there is none of this name.
    """
    if name not in recipe_names():
        raise NotFound(f"there is no recipe '{name}': there are {', '.join(recipe_names())}")
    return files(__name__).joinpath(f"{name}.yaml").read_text()


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe as data."""
    recipe: dict[str, Any] = yaml.safe_load(recipe_text(name))
    return recipe
