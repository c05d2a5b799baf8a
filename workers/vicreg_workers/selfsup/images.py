"""Labelled images on disk or shipped with a library, as PIL images by index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torchvision.datasets
from PIL import Image

from vicreg_platform.paths import IMAGE_SUFFIXES, resolve_inside
from vicreg_platform.specs import Data, DigitsData, ImageFolderData, TorchvisionData
from vicreg_workers.failures import UserFailure

DIGITS_TEST_SHARE = 0.2


class Images(Protocol):
    """A set of labelled images. ``read`` raises OSError for an image that cannot be decoded."""

    labels: Sequence[int]
    """The class of each image, an index into ``classes``."""
    classes: Sequence[str]
    """The names of the classes."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Image ``index``, decoded, in RGB."""
        ...

    def name(self, index: int) -> str:
        """What a person would call image ``index``: its path where it has one."""
        ...


def open_images(spec: Data, data_root: Path) -> Images:
    """The images that ``spec`` names.

    Raises:
        UserFailure: there are none, or they are not where the spec says.
    """
    if isinstance(spec, DigitsData):
        return Digits(spec)
    try:
        path = resolve_inside(data_root, spec.path)
    except ValueError as error:
        raise UserFailure(f"data.path: {error}") from None
    if isinstance(spec, ImageFolderData):
        return ImageFolder(path)
    return TorchvisionImages(spec, path)


class Digits:
    """scikit-learn's handwritten digits; the split is stratified and the same everywhere."""

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


class ImageFolder:
    """A folder of images, one sub-folder a class, in the order of their names."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UserFailure(f"data.path: there is no folder {path}")
        self._files: list[str] = []
        labels: list[int] = []
        self.classes: Sequence[str] = sorted(
            entry.name
            for entry in os.scandir(path)
            if entry.is_dir() and not entry.name.startswith(".")
        )
        for label, folder in enumerate(self.classes):
            files = sorted(
                os.path.join(directory, file)
                for directory, _, names in os.walk(path / folder, followlinks=True)
                for file in names
                if file.lower().endswith(IMAGE_SUFFIXES)
            )
            self._files += files
            labels += [label] * len(files)
        self.labels: Sequence[int] = labels
        if not self._files:
            raise UserFailure(
                f"data.path: there are no images in {path}: it must hold one sub-folder a class, "
                f"with files that end in {', '.join(IMAGE_SUFFIXES)}"
            )

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return read_image(self._files[index])

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._files[index]


class TorchvisionImages:
    """A classification set of torchvision that is already on disk."""

    def __init__(self, spec: TorchvisionData, path: Path) -> None:
        kind = getattr(torchvision.datasets, spec.dataset, None)
        if not isinstance(kind, type) or not issubclass(kind, torchvision.datasets.VisionDataset):
            raise UserFailure(f"data.dataset: torchvision.datasets has no {spec.dataset}")
        try:
            self._dataset = _open_split(kind, path, spec.split)
        except (RuntimeError, FileNotFoundError, NotADirectoryError) as error:
            raise UserFailure(
                f"data.path: torchvision's {spec.dataset} is not in {path}: {error}"
            ) from None
        self._title = f"{spec.dataset} {spec.split}"
        labels = getattr(self._dataset, "targets", getattr(self._dataset, "labels", None))
        if labels is None:
            labels = [self._dataset[index][1] for index in range(len(self._dataset))]
        self.labels: Sequence[int] = [int(label) for label in labels]
        # torchvision numbers the classes of all splits alike.
        self.classes: Sequence[str] = [str(n) for n in range(max(self.labels, default=-1) + 1)]
        if not self.labels:
            raise UserFailure(f"data.path: torchvision's {spec.dataset} in {path} holds no images")

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


def read_image(file: str) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        OSError: the file is missing, truncated, or no image.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:
        # Pillow's decoders report broken files by nearly every exception there is.
        raise OSError(str(error)) from error


def _open_split(
    kind: type[torchvision.datasets.VisionDataset], path: Path, split: str
) -> torchvision.datasets.VisionDataset:
    """Torchvision's classes name the split in two ways: ``train=True`` or ``split="train"``."""
    try:
        return kind(root=str(path), train=split == "train")
    except TypeError:
        return kind(root=str(path), split=split)
