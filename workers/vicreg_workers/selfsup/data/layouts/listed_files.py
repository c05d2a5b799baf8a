"""Files that a list or an annotation names: they must be there, and under the data root."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vicreg_workers.selfsup.data.images import Locate
from vicreg_workers.selfsup.errors import InvalidInput


def voc_names(file: Path, folders: str) -> list[str]:
    """The names of images in a list of Pascal VOC's ``ImageSets``.

    Args:
        file: the list.
        folders: those of the layout, for people.

    Raises:
        InvalidInput: it cannot be read, is empty, or holds a path.
    """
    try:
        names = read_text(file).split()
    except (OSError, UnicodeError) as error:
        raise InvalidInput(
            f"data.split: {file} cannot be read: {error}: data.path must name the folder that "
            f"holds {folders}"
        ) from None
    if not names:
        raise InvalidInput(f"data.split: {file} names no images")
    outside = next((name for name in names if "/" in name or name.startswith(".")), None)
    if outside is not None:
        raise InvalidInput(f"data.split: {file} must hold names, not {outside}")
    return names


def check_listed_files(
    folder: str, path: Path, files: Sequence[str], locate: Locate, rule: str
) -> None:
    """Check that files are there, and under the data root.

    Args:
        folder: what holds them, relative to the data root.
        path: the same, absolute.
        files: their paths in it.
        locate: finds a path under the data root.
        rule: what the data need, for people.

    Raises:
        InvalidInput: one is missing, or leads out of the data root.
    """
    # Resolved once a folder: only what is itself a link can then lead elsewhere.
    inside = PurePosixPath(folder)
    for parent in sorted({os.path.dirname(name) for name in files}):
        located(locate, str(inside / parent), "data.path")
    missing = []
    for name in files:
        file = os.path.join(path, name)
        if os.path.islink(file):
            located(locate, str(inside / name), "data.path")
        elif not os.path.isfile(file):
            missing.append(file)
    if missing:
        more = f", and {len(missing) - 1} more are missing" if len(missing) > 1 else ""
        raise InvalidInput(f"data.path: {missing[0]} does not exist{more}: {rule}")


def located(locate: Locate, path: str, field: str) -> Path:
    """The absolute path of what a field names.

    Raises:
        InvalidInput: it does not exist, or is outside the data root.
    """
    try:
        return locate(path)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}") from None


def read_text(file: Path) -> str:
    """The text of a file in UTF-8 or UTF-16; Windows marks its files with a byte order.

    Raises:
        OSError: it cannot be read.
        UnicodeError: it is in another encoding.
    """
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")
