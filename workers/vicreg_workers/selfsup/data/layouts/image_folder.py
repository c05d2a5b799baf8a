"""Images that are files in a folder, with or without classes."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from vicreg_platform.specs import ImageFolderData
from vicreg_platform.specs.image_files import IMAGE_SUFFIXES, image_files, is_folder, is_hidden
from vicreg_workers.selfsup.data.images import EncodedImages, Locate
from vicreg_workers.selfsup.data.layouts.keep import Keep, read_kept, write_kept
from vicreg_workers.selfsup.data.layouts.listed_files import read_text
from vicreg_workers.selfsup.data.layouts.listing import Listing
from vicreg_workers.selfsup.data.layouts.names import Names
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)


class _Files(EncodedImages):
    """Images that are files."""

    def __init__(self, spec: ImageFolderData, root: Path, files: Names) -> None:
        super().__init__(spec.exif)
        self._root = root
        self._files = files
        """Paths in ``root``."""

    def __len__(self) -> int:
        return len(self._files)

    def content(self, index: int) -> bytes:
        """See ``EncodedImages.content``."""
        return Path(self.name(index)).read_bytes()

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return os.path.join(self._root, self._files[index])


class _Folder:
    """A folder under the data root, whose images are to be listed.

    Args:
        spec: its path, relative to the data root.
        path: the same, absolute.
        locate: finds a path under the data root.
    """

    def __init__(self, spec: ImageFolderData, path: Path, locate: Locate) -> None:
        self._path = path
        self._inside = PurePosixPath(spec.path)
        self._locate = locate

    def images(self, folder: str = "") -> list[str]:
        """Paths in it of all images below its sub-folder ``folder``, sorted.

        Raises:
            InvalidInput: a link leads out of the data root, or too many to one folder.
            OSError: a folder cannot be read.
        """
        below = self._path / folder
        if below.is_symlink():
            self._check_link(str(below))
        start = len(str(self._path)) + 1
        try:
            return sorted(file[start:] for file in image_files(str(below), self._check_link))
        except ValueError as error:
            raise InvalidInput(f"data.path: {error}") from None

    def _check_link(self, link: str) -> None:
        if not os.path.exists(link):
            return  # it leads nowhere: an image that cannot be read
        relative = os.path.relpath(link, self._path)
        try:
            self._locate(str(self._inside / relative))
        except ValueError as error:
            raise InvalidInput(f"data.path: the link {link}: {error}") from None


@contextmanager
def _all_readable(path: Path) -> Iterator[None]:
    """While in it, a folder in ``path`` that cannot be read is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"data.path: {error.filename or path} cannot be read ({error.strerror}), and may hold "
            "images: let the workers read it, or move it away"
        ) from None


class ImageFolder(_Files):
    """A folder of images, ordered by class and name.

    Args:
        spec: its path, and whether its sub-folders are classes.
        path: the folder.
        locate: finds a path under the data root.
        keep: where the job keeps the list of its images: it is made once, whatever is added to the
            folder later. None keeps none.

    Raises:
        InvalidInput: it holds no images, or no longer those that the job has listed; a folder
            cannot be read, or a link leads out of the data root.
    """

    several: Tensor | None = None

    def __init__(
        self, spec: ImageFolderData, path: Path, locate: Locate, keep: Keep | None = None
    ) -> None:
        called = hashlib.sha256(f"{spec.path}\n{spec.classes}".encode(errors="replace"))
        kept = f"images-{called.hexdigest()[:32]}.npz"
        listing = read_kept(keep, kept, Listing.from_bytes)
        # The first worker looks again: of a later attempt, it is the one who can notice a change.
        if listing is None or rank() == 0:
            with _all_readable(path):
                found = _listed(spec, path, _Folder(spec, path, locate))
            if listing is None:
                listing = found
                write_kept(keep, kept, listing.to_bytes)
            else:
                _check_all_there(listing, found, path)
        self.labels: Sequence[int] = listing.labels
        self.classes: Sequence[str] = listing.classes
        super().__init__(spec, path, listing.files)


def _listed(spec: ImageFolderData, path: Path, folder: _Folder) -> Listing:
    """The images that are in a folder now."""
    if not path.is_dir():
        raise InvalidInput(f"data.path: {path} is not a folder")
    by_class = {} if spec.classes == "none" else _by_class(path, folder)
    if by_class:
        files = [file for members in by_class.values() for file in members]
        labels = array("i")
        for label, members in enumerate(by_class.values()):
            labels.extend([label] * len(members))
        _warn_of_oddities(path, by_class)
    else:
        files = [] if spec.classes == "folders" else folder.images()
        labels = array("i", bytes(4 * len(files)))
    if not files:
        where = "one sub-folder per class" if spec.classes == "folders" else "it"
        raise InvalidInput(
            f"data.path: there are no images in {path}: there must be some in {where}, with "
            f"names that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    return Listing(Names(files), labels, list(by_class))


def _check_all_there(listing: Listing, found: Listing, path: Path) -> None:
    """Check that all images of a job's list are in the folder; others may have been added."""
    if np.array_equal(listing.files.content, found.files.content):
        return
    listed, now = set(listing.files), set(found.files)
    gone = listed - now
    if gone:
        raise InvalidInput(
            f"data: {len(gone)} of the {len(listed)} images that this job has listed are no longer "
            f"in {path}, such as {min(gone)}: put them back, or submit a new job"
        )
    logger.info("data: %d images were added to %s since, and are left out", len(now - listed), path)


def _by_class(path: Path, folder: _Folder) -> dict[str, list[str]]:
    """The images of each sub-folder that is a class; empty if none of them holds an image."""
    names = sorted(
        entry.name for entry in os.scandir(path) if not is_hidden(entry.name) and is_folder(entry)
    )
    found = {name: folder.images(name) for name in names}
    return found if any(found.values()) else {}


def _warn_of_oddities(path: Path, classes: Iterable[str]) -> None:
    if rank() != 0:
        return
    loose = [
        entry.name
        for entry in os.scandir(path)
        if entry.name.lower().endswith(IMAGE_SUFFIXES)
        and not is_hidden(entry.name)
        and not is_folder(entry)
    ]
    if loose:
        logger.warning(
            "data: %d images lie beside the class folders of %s and are left out, such as %s: "
            "move them into a class, or set data.classes to none to use all without labels",
            len(loose),
            path,
            min(loose),
        )
    by_folded: dict[str, str] = {}
    for name in classes:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            logger.warning(
                "data: %s has the classes %s and %s, whose names differ only in case: they "
                "are taken for two",
                path,
                other,
                name,
            )


class LabelledFolder(_Files):
    """A folder of images with several labels each, which a CSV file lists.

    Args:
        spec: where they are.
        path: the folder; no image may lie outside it.
        table: the CSV file: a header ``image,<class>,…``, then one line per image.
        locate: finds a path under the data root.

    Raises:
        InvalidInput: the table is malformed, or names an image twice or one that is not there; a
            folder cannot be read, or a link leads out of the data root.
    """

    def __init__(self, spec: ImageFolderData, path: Path, table: Path, locate: Locate) -> None:
        try:
            lines = read_text(table).splitlines(keepends=True)
            header, *rows = [row for row in csv.reader(lines) if row]
        except (OSError, ValueError, csv.Error) as error:
            raise InvalidInput(f"data.labels: {table} is not a CSV file: {error}") from None
        self.classes: Sequence[str] = [name.strip() for name in header[1:]]
        known = {"1": 1, "0": 0, "": -1}
        values = []
        for number, row in enumerate(rows, start=2):
            cells = [cell.strip() for cell in row]
            if len(cells) != len(header) or any(cell not in known for cell in cells[1:]):
                raise InvalidInput(
                    f"data.labels: line {number} of {table} must hold an image and "
                    f"{len(header) - 1} values, each 1, 0 or empty"
                )
            values.append([known[cell] for cell in cells[1:]])
        if not values or not self.classes:
            raise InvalidInput(f"data.labels: {table} names no images or no classes")
        try:
            files = [locate(str(PurePosixPath(spec.path) / row[0].strip())) for row in rows]
        except ValueError as error:
            raise InvalidInput(f"data.labels: {error}") from None
        outside = next((each for each in files if not each.is_relative_to(path)), None)
        if outside is not None:
            raise InvalidInput(f"data.labels: {outside} is outside the folder {path}")
        twice = next((file for file, count in Counter(files).items() if count > 1), None)
        if twice is not None:
            raise InvalidInput(f"data.labels: {table} names {twice} twice: keep one of its lines")
        with _all_readable(path):
            found = _Folder(spec, path, locate).images()
        # A table may name a link, or what it leads to.
        listed = {str(file) for file in files} | {
            os.path.normpath(path / row[0].strip()) for row in rows
        }
        without = [file for file in found if os.path.join(path, file) not in listed]
        if without and rank() == 0:
            logger.warning(
                "data: %d of the %d images in %s are left out, such as %s: %s has labels for %d "
                "images alone",
                len(without),
                len(found),
                path,
                without[0],
                table,
                len(files),
            )
        self.several: Tensor | None = torch.tensor(values, dtype=torch.int8)
        self.labels: Sequence[int] = (self.several == 1).int().argmax(dim=1).tolist()
        super().__init__(spec, path, Names(str(file.relative_to(path)) for file in files))
