"""Labelled images, on disk or shipped with a library, as PIL images by index."""

from __future__ import annotations

import codecs
import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol, cast

import numpy as np
import torch
import torchvision.datasets
from PIL import Image
from torch import Tensor

from vicreg_platform.specs import Data, DigitsData, ImageFolderData, TorchvisionData
from vicreg_platform.specs.image_files import IMAGE_SUFFIXES, image_files, is_hidden
from vicreg_workers.selfsup.errors import InvalidInput

DIGITS_TEST_SHARE = 0.2

Locate = Callable[[str], Path]
"""From a path relative to the data root to an absolute one, with symbolic links followed. Raises
ValueError if the path is outside the root or does not exist."""


class Images(Protocol):
    """A set of labelled images. ``read`` raises OSError for an image that cannot be decoded."""

    labels: Sequence[int]
    """The class of each image: an index into ``classes``."""
    classes: Sequence[str]
    """The names of the classes."""
    several: Tensor | None
    """``[N, C]`` of 1, 0, or -1 for unknown if images have several labels each, else None. With
    several, ``labels`` holds the first that is 1."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Image ``index``, decoded, in RGB."""
        ...

    def name(self, index: int) -> str:
        """A name for people: the path of image ``index`` if it has one."""
        ...


def open_images(spec: Data, locate: Locate) -> Images:
    """Open the images that ``spec`` names.

    Args:
        spec: the data source.
        locate: finds the paths of the spec.

    Raises:
        InvalidInput: the images are missing or malformed.
    """
    images = _open_all(spec, locate)
    if isinstance(spec, ImageFolderData) and spec.names is not None:
        images = Subset(images, _listed(images, _located(locate, spec.names, "data.names")))
    if spec.share < 1.0:
        images = Subset(images, stratified(images.labels, spec.share, spec.share_seed))
    return images


def _open_all(spec: Data, locate: Locate) -> Images:
    if isinstance(spec, DigitsData):
        return Digits(spec)
    path = _located(locate, spec.path, "data.path")
    if isinstance(spec, ImageFolderData):
        if spec.labels is None:
            return ImageFolder(path)
        table = _located(locate, spec.labels, "data.labels")
        return LabelledFolder(
            path, table, lambda image: locate(str(PurePosixPath(spec.path) / image))
        )
    return TorchvisionImages(spec, path)


def _located(locate: Locate, path: str, field: str) -> Path:
    try:
        return locate(path)
    except ValueError as error:
        raise InvalidInput(f"{field}: {error}") from None


def _listed(images: Images, file: Path) -> list[int]:
    """Indices of the images that ``file`` names, one per line.

    A line is a file name, or the end of a path if several images have that name.
    """
    try:
        lines = [line.strip() for line in _read_text(file).splitlines()]
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"data.names: {file} cannot be read: {error}") from None
    by_name: dict[str, list[int]] = {}
    for index in range(len(images)):
        by_name.setdefault(os.path.basename(images.name(index)), []).append(index)
    wanted = [line for line in lines if line]
    found = [
        [
            index
            for index in by_name.get(os.path.basename(line), [])
            if "/" not in line or f"/{images.name(index)}".endswith(f"/{line.lstrip('./')}")
        ]
        for line in wanted
    ]
    unknown = [line for line, indices in zip(wanted, found, strict=True) if not indices]
    if unknown or not wanted:
        which = f"names {unknown[0]} and {len(unknown) - 1} more" if unknown else "names no image"
        raise InvalidInput(f"data.names: {file} {which}: not among the images of data.path")
    for line, indices in zip(wanted, found, strict=True):
        if len(indices) > 1:
            raise InvalidInput(
                f"data.names: {len(indices)} images are called {line}: "
                f"name the class's folder too, as in class/{os.path.basename(line)}"
            )
    return [indices[0] for indices in found]


def stratified(labels: Sequence[int], share: float, seed: int) -> list[int]:
    """Indices of ``share`` of each class, at least one of each, in ascending order."""
    generator = torch.Generator().manual_seed(seed)
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        by_class.setdefault(label, []).append(index)
    chosen = []
    for label in sorted(by_class):
        members = by_class[label]
        order = torch.randperm(len(members), generator=generator).tolist()
        count = max(1, round(len(members) * share))
        chosen += [members[place] for place in order[:count]]
    return sorted(chosen)


class Subset:
    """The images of a set at some indices."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = indices
        self.classes = images.classes
        self.labels: Sequence[int] = [images.labels[index] for index in indices]
        self.several = None if images.several is None else images.several[list(indices)]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return self._images.read(self._indices[index])

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._images.name(self._indices[index])


class Digits:
    """scikit-learn's handwritten digits. The split is stratified and always the same."""

    several: Tensor | None = None

    def __init__(self, spec: DigitsData) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, test = train_test_split(
            np.arange(len(digits.target)),
            test_size=DIGITS_TEST_SHARE,
            random_state=0,
            stratify=digits.target,
        )
        chosen = train if spec.split == "train" else test
        self.labels: Sequence[int] = digits.target[chosen].tolist()
        self.classes: Sequence[str] = [str(digit) for digit in range(10)]
        self._indices = chosen
        # 16 grey levels, 0 to 16.
        self._pixels = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return Image.fromarray(self._pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return f"digit {self._indices[index]}"


class _Files:
    """Images that are files."""

    _files: list[str]

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return read_image(self._files[index])

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._files[index]


class ImageFolder(_Files):
    """A folder of images with one sub-folder per class, ordered by name."""

    several: Tensor | None = None

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InvalidInput(f"data.path: {path} is not a folder")
        self._files: list[str] = []
        labels: list[int] = []
        self.classes: Sequence[str] = sorted(
            entry.name for entry in os.scandir(path) if not is_hidden(entry.name) and entry.is_dir()
        )
        for label, folder in enumerate(self.classes):
            files = sorted(image_files(str(path / folder)))
            self._files += files
            labels += [label] * len(files)
        self.labels: Sequence[int] = labels
        if not self._files:
            raise InvalidInput(
                f"data.path: there are no images in {path}: it must hold one sub-folder per class, "
                f"with files that end in {', '.join(IMAGE_SUFFIXES)}"
            )


class LabelledFolder(_Files):
    """A folder of images with several labels each, which a CSV file lists.

    Args:
        path: the folder; no image may lie outside it.
        table: the CSV file: a header ``image,<class>,…``, then one line per image.
        locate: finds an image by its path in the folder.
    """

    def __init__(self, path: Path, table: Path, locate: Locate) -> None:
        try:
            lines = _read_text(table).splitlines(keepends=True)
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
            files = [locate(row[0].strip()) for row in rows]
        except ValueError as error:
            raise InvalidInput(f"data.labels: {error}") from None
        outside = next((each for each in files if not each.is_relative_to(path)), None)
        if outside is not None:
            raise InvalidInput(f"data.labels: {outside} is outside the folder {path}")
        self._files = [str(file) for file in files]
        self.several: Tensor | None = torch.tensor(values, dtype=torch.int8)
        self.labels: Sequence[int] = (self.several == 1).int().argmax(dim=1).tolist()


class TorchvisionImages:
    """A classification data set of torchvision that is already on disk."""

    several: Tensor | None = None

    def __init__(self, spec: TorchvisionData, path: Path) -> None:
        kind = getattr(torchvision.datasets, spec.dataset, None)
        if not isinstance(kind, type) or not issubclass(kind, torchvision.datasets.VisionDataset):
            raise InvalidInput(f"data.dataset: torchvision.datasets has no {spec.dataset}")
        try:
            self._dataset = _open_split(kind, path, spec.split)
        except (RuntimeError, OSError, ValueError, TypeError) as error:
            raise InvalidInput(
                f"data.path: torchvision's {spec.dataset} is not in {path}: {error}"
            ) from None
        self._title = f"{spec.dataset} {spec.split}"
        labels = getattr(self._dataset, "targets", getattr(self._dataset, "labels", None))
        if labels is None:
            labels = [self._dataset[index][1] for index in range(len(self._dataset))]
        self.labels: Sequence[int] = [int(label) for label in labels]
        # torchvision numbers the classes the same way in all splits.
        self.classes: Sequence[str] = [str(n) for n in range(max(self.labels, default=-1) + 1)]
        if not self.labels:
            raise InvalidInput(
                f"data.path: torchvision's {spec.dataset} in {path} contains no images"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        try:
            image = self._dataset[index][0]
        except Exception as error:
            raise OSError(str(error)) from error
        return cast("Image.Image", image).convert("RGB")

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return f"{self._title} image {index}"


def _read_text(file: Path) -> str:
    """The text of a file in UTF-8 or UTF-16; Windows marks its files with a byte order.

    Raises:
        OSError: it cannot be read.
        UnicodeError: it is in another encoding.
    """
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if marked else "utf-8-sig")


def read_image(file: str) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        OSError: the file is missing, truncated, or not an image.
    """
    try:
        with Image.open(file) as image:
            return _rgb(image)
    except Exception as error:
        # Pillow's decoders report broken files by almost any exception.
        raise OSError(str(error)) from error


def why_unreadable(images: Images, index: int) -> str:
    """Which image could not be read and why, in one line that names it once."""
    name, reason = images.name(index), "it can be read now"
    try:
        images.read(index)
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
    return reason if name in reason else f"{name}: {reason}"


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("F", "I"):
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits"
        raise OSError(f"its pixels are {kind}, of an unknown range: save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16 bits per pixel: Pillow's own conversion would clip at 255.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _open_split(
    kind: type[torchvision.datasets.VisionDataset], path: Path, split: str
) -> torchvision.datasets.VisionDataset:
    """Open a split. torchvision's classes take either ``train=True`` or ``split="train"``."""
    try:
        return kind(root=str(path), train=split == "train")
    except TypeError:
        return kind(root=str(path), split=split)
