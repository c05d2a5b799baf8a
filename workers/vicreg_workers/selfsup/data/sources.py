"""Opens the images that a spec names."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torchvision.datasets
from PIL import Image

from vicreg_platform.specs import (
    Data,
    DetectionData,
    DigitsData,
    HuggingFaceData,
    ImageFolderData,
    SegmentationData,
    TorchvisionData,
    WebDatasetData,
)
from vicreg_workers.selfsup.data.decoding import AnyPicture, DecodedPicture
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.dense.masked_images import MaskedImages
from vicreg_workers.selfsup.data.images import Images, Locate
from vicreg_workers.selfsup.data.layouts.image_folder import ImageFolder, LabelledFolder
from vicreg_workers.selfsup.data.layouts.keep import Keep
from vicreg_workers.selfsup.data.layouts.listed_files import located, read_text
from vicreg_workers.selfsup.data.layouts.shards import Shards
from vicreg_workers.selfsup.errors import InvalidInput

DIGITS_TEST_SHARE = 0.2
_Unmasked = DigitsData | ImageFolderData | WebDatasetData | HuggingFaceData | TorchvisionData


def open_images(
    spec: Data,
    locate: Locate,
    keep: Keep | None = None,
    loaders: int = 0,
    own: Keep | None = None,
) -> Images:
    """Open the images that ``spec`` names.

    Args:
        spec: the data source.
        locate: finds the paths of the spec.
        keep: where the indexes of shards are kept, for all jobs; None keeps none.
        loaders: processes that may be used to list images.
        own: where the job keeps its lists of the images in folders; None keeps none.

    Raises:
        InvalidInput: the images are missing or malformed.
        Unreachable: they lie in a store that does not answer.
    """
    if isinstance(spec, SegmentationData):
        return open_masked_images(spec, locate)
    if isinstance(spec, DetectionData):
        return open_boxed_images(spec, locate)
    images = _open_all(spec, locate, keep, loaders, own)
    if isinstance(spec, ImageFolderData) and spec.names is not None:
        images = Subset(images, _listed(images, located(locate, spec.names, "data.names")))
    if spec.share < 1.0:
        images = Subset(images, stratified(images.labels, spec.share, spec.share_seed))
    return images


def open_masked_images(spec: SegmentationData, locate: Locate) -> MaskedImages:
    """Open the images with masks that ``spec`` names.

    Args:
        spec: the data source.
        locate: finds the paths of the spec.

    Raises:
        InvalidInput: images or masks are missing.
    """
    images = MaskedImages(spec, located(locate, spec.path, "data.path"), locate)
    if spec.share < 1.0:
        return images.only(stratified(images.labels, spec.share, spec.share_seed))
    return images


def open_boxed_images(spec: DetectionData, locate: Locate) -> BoxedImages:
    """Open the images with objects that ``spec`` names.

    Args:
        spec: the data source.
        locate: finds the paths of the spec.

    Raises:
        InvalidInput: images or annotations are missing or malformed.
    """
    images = BoxedImages(spec, locate)
    if spec.share < 1.0:
        return images.only(stratified(images.labels, spec.share, spec.share_seed))
    return images


def _open_all(
    spec: _Unmasked, locate: Locate, keep: Keep | None, loaders: int, own: Keep | None
) -> Images:
    if isinstance(spec, DigitsData):
        return Digits(spec)
    if isinstance(spec, WebDatasetData):
        return Shards(spec, locate, keep, loaders)
    path = located(locate, spec.path, "data.path")
    if isinstance(spec, HuggingFaceData):
        # Imported here: pyarrow takes a while, and few need it.
        from vicreg_workers.selfsup.data.layouts.huggingface import HuggingFace

        return HuggingFace(spec, path)
    if isinstance(spec, TorchvisionData):
        return TorchvisionImages(spec, path)
    if spec.labels is None:
        return ImageFolder(spec, path, locate, own)
    return LabelledFolder(spec, path, located(locate, spec.labels, "data.labels"), locate)


def _listed(images: Images, file: Path) -> list[int]:
    """Indices of the images that ``file`` names, one per line.

    A line is a file name, or the end of a path if several images have that name.
    """
    try:
        lines = [line.strip() for line in read_text(file).splitlines()]
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


class Subset(Images):
    """The images of a set at some indices."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self._images = images
        self._indices = array("q", indices)
        self.classes = images.classes
        self.labels: Sequence[int] = array("i", (images.labels[index] for index in indices))
        self.several = None if images.several is None else images.several[list(indices)]
        if images.groups is not None:
            ends = np.cumsum(images.groups.sizes)
            counts = np.bincount(
                np.searchsorted(ends, self._indices, side="right"), minlength=len(ends)
            )
            self.groups = images.groups._replace(sizes=counts.tolist())

    def __len__(self) -> int:
        return len(self._indices)

    def open(self, index: int) -> AnyPicture:
        """See ``Images.open``."""
        return self._images.open(self._indices[index])

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._images.name(self._indices[index])

    def will_read(self, indices: Sequence[int]) -> None:
        """See ``Images.will_read``."""
        self._images.will_read([self._indices[index] for index in indices])


class Digits(Images):
    """scikit-learn's handwritten digits. The split is stratified and always the same."""

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

    def open(self, index: int) -> DecodedPicture:
        """See ``Images.open``."""
        return DecodedPicture(Image.fromarray(self._pixels[index]).convert("RGB"))

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return f"digit {self._indices[index]}"


class TorchvisionImages(Images):
    """A classification data set of torchvision that is already on disk."""

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

    def open(self, index: int) -> DecodedPicture:
        """See ``Images.open``."""
        try:
            image = self._dataset[index][0]
        except Exception as error:
            raise OSError(str(error)) from error
        return DecodedPicture(cast("Image.Image", image).convert("RGB"))

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return f"{self._title} image {index}"


def _open_split(
    kind: type[torchvision.datasets.VisionDataset], path: Path, split: str
) -> torchvision.datasets.VisionDataset:
    """Open a split. torchvision's classes take either ``train=True`` or ``split="train"``."""
    try:
        return kind(root=str(path), train=split == "train")
    except TypeError:
        return kind(root=str(path), split=split)
