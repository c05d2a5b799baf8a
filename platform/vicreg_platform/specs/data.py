"""Where images come from: digits, an image folder, torchvision."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from vicreg_platform.specs.base import SpecModel

Interpolation = Literal["bicubic", "bilinear"]
ImageSize = Annotated[int, Field(ge=8, le=1024)]


def _inside_root(path: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise ValueError("must be relative to the data root and cannot leave it")
    return path


RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00\n\r]+$"),
    AfterValidator(_inside_root),
]


class _Images(SpecModel):
    share: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the images of each class that is used, at least one of each class."""
    share_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random choice of images."""


class DigitsData(_Images):
    """scikit-learn's handwritten digits: 1,797 real 8×8 images, shipped with the library."""

    source: Literal["digits"]
    split: Literal["train", "test"] = "train"
    """A fixed stratified split: four fifths for training, one fifth for testing."""
    image_size: ImageSize = 32
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> DigitsData:
        """The images held out from training."""
        return self.model_copy(update={"split": "test", "share": 1.0})


class ImageFolderData(_Images):
    """A folder of images, one sub-folder per class: ``<path>/<class>/<image>``."""

    source: Literal["image_folder"]
    path: RelativePath
    """Relative to the data root; it cannot leave it, symbolic links included."""
    names: RelativePath | None = None
    """A text file, relative to the data root, that lists the images to use, one name per line (or
    the end of its path, if several images share the name), such as the ``1percent.txt`` of
    google-research/simclr."""
    labels: RelativePath | None = None
    """A CSV file, relative to the data root, for images with several labels each: a header
    ``image,<class>,<class>,…``, then one line per image with its path under ``path`` and, for
    each class, 1, 0, or nothing if unknown. The folder then needs no sub-folders."""
    image_size: ImageSize = 224
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> ImageFolderData | None:
        """The folder ``test`` beside a folder ``train``; None if it cannot be guessed."""
        path = PurePosixPath(self.path)
        if path.name != "train" or self.labels is not None:
            return None
        test = str(path.with_name("test"))
        return self.model_copy(update={"path": test, "share": 1.0, "names": None, "labels": None})


class TorchvisionData(_Images):
    """A classification data set of torchvision that is on disk already; nothing is downloaded."""

    source: Literal["torchvision"]
    dataset: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]{0,63}$")]
    """The class in ``torchvision.datasets``, such as ``CIFAR10``."""
    path: RelativePath
    """The folder passed to the class as ``root``, relative to the data root."""
    split: Literal["train", "test"] = "train"
    """The part of the data set."""
    image_size: ImageSize = 32
    """Side of the square image the network sees, in pixels."""

    def test_set(self) -> TorchvisionData:
        """The images held out from training."""
        return self.model_copy(update={"split": "test", "share": 1.0})


Data = Annotated[DigitsData | ImageFolderData | TorchvisionData, Field(discriminator="source")]


class EvaluationData(SpecModel):
    """The labelled images of an evaluation."""

    train: Data
    test: Data
    interpolation: Interpolation = "bicubic"
    """How images are resized: ``bicubic``, as for training, or ``bilinear``, as in the authors'
    ``evaluate.py``."""
