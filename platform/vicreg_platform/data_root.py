"""Paths under the data root; none can leave it."""

from __future__ import annotations

import os
from pathlib import Path

from vicreg_platform.specs.image_files import any_image, is_hidden


def resolve_inside(root: Path, relative: str) -> Path:
    """The path ``relative`` under ``root``, with symbolic links resolved.

    Raises:
        ValueError: the path is outside the root, or does not exist.
    """
    try:
        root = root.resolve()
        path = (root / relative).resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a name too long, a loop of links
        raise ValueError(f"'{relative}' cannot be resolved: {error}") from None
    if not path.is_relative_to(root):
        raise ValueError(f"'{relative}' is outside the data root {root}")
    if not exists:
        raise ValueError(f"'{relative}' does not exist under the data root {root}")
    return path


def holds_image(folder: Path, in_classes: bool) -> bool:
    """Whether a folder, or with ``in_classes`` one of its sub-folders, contains an image file."""
    if not in_classes:
        return any_image([str(folder)])
    return any_image(
        entry.path for entry in os.scandir(folder) if not is_hidden(entry.name) and entry.is_dir()
    )
