"""Which files of a folder are its images."""

from __future__ import annotations

import os
from collections.abc import Iterator

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_NOT_IMAGES = ("__MACOSX",)
"""Folders that archives made on a Mac hold beside the images."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set."""
    return name.startswith(".") or name in _NOT_IMAGES


def image_files(folder: str) -> Iterator[str]:
    """The paths of the images in a folder and its sub-folders, in no order.

    Symbolic links are followed, but not back into a folder that contains them; hidden files and
    folders are skipped.
    """
    yield from _walk(folder, frozenset())


def _walk(folder: str, containing: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError:
        return  # removed meanwhile, not ours to read, or a loop of links
    identity = (status.st_dev, status.st_ino)
    if identity in containing:
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        if _is_folder(entry):
            yield from _walk(entry.path, containing | {identity})
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield entry.path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
