"""Which files of a folder are its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_NOT_IMAGES = ("__MACOSX",)
"""Folders that archives made on a Mac hold beside the images."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is not part of a data set."""
    return name.startswith(".") or name in _NOT_IMAGES


def image_files(folder: str, links: Callable[[str], None] | None = None) -> Iterator[str]:
    """The paths of the images in a folder and its sub-folders, in no particular order.

    Symbolic links are followed, but not back into a folder that contains them; hidden files and
    folders are skipped.

    Args:
        folder: where to look.
        links: called with each symbolic link before it is followed; may raise.
    """
    yield from _walk(folder, frozenset(), links or (lambda link: None))


def _walk(
    folder: str, containing: frozenset[tuple[int, int]], links: Callable[[str], None]
) -> Iterator[str]:
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
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
        folder_below = _is_folder(entry)
        if entry.is_symlink() and (is_image or folder_below):
            links(entry.path)
        if folder_below:
            yield from _walk(entry.path, containing | {identity}, links)
        elif is_image:
            yield entry.path


def any_image(folders: Iterable[str]) -> bool:
    """Whether an image is in one of the folders or their sub-folders, as ``image_files`` has it.

    Each folder is looked into once, by however many links it can be reached.
    """
    ahead, seen = list(folders), set()
    while ahead:
        folder = ahead.pop()
        try:
            status = os.stat(folder)
            entries = list(os.scandir(folder))
        except OSError:
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in seen:
            continue
        seen.add(identity)
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if _is_folder(entry):
                ahead.append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                return True
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False
