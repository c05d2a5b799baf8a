"""Which files of a folder are its images."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_NOT_IMAGES = ("__MACOSX",)
"""Folders that archives made on a Mac hold beside the images."""
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors that say that there is nothing: removed meanwhile, or a loop of links."""
MAX_PATHS = 100
"""By which one folder may be reached. Folders that all link to each other have very many."""


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

    Raises:
        OSError: a folder cannot be read, or a link not followed: images may be missing.
        ValueError: links lead to one folder by more than ``MAX_PATHS`` paths.
    """
    yield from _walk(folder, frozenset(), Counter(), links or (lambda link: None))


def _walk(
    folder: str,
    containing: frozenset[tuple[int, int]],
    paths: Counter[tuple[int, int]],
    links: Callable[[str], None],
) -> Iterator[str]:
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        if error.errno in _NOTHING:
            return
        raise
    identity = (status.st_dev, status.st_ino)
    if identity in containing:
        return
    paths[identity] += 1
    if paths[identity] > MAX_PATHS:
        raise ValueError(
            f"symbolic links lead to {folder} by more than {MAX_PATHS} paths: remove those that "
            "link folders to each other"
        )
    for entry in entries:
        if is_hidden(entry.name):
            continue
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
        folder_below = is_folder(entry)
        if entry.is_symlink() and (is_image or folder_below):
            links(entry.path)
        if folder_below:
            yield from _walk(entry.path, containing | {identity}, paths, links)
        elif is_image:
            yield entry.path


def any_image(folders: Iterable[str]) -> bool:
    """Whether an image is in one of the folders or their sub-folders, as ``image_files`` has it.

    Each folder is looked into once, by however many links it can be reached. What cannot be read
    is passed over.
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
            try:
                below = is_folder(entry)
            except OSError:
                continue
            if below:
                ahead.append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                return True
    return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one.

    Raises:
        OSError: it cannot be told.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _NOTHING:
            return False
        raise
