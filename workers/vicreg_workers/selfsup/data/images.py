"""What a set of images is, wherever they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vicreg_platform.specs.data import Orientation
from vicreg_workers.selfsup.data.decoding import AnyPicture, Picture
from vicreg_workers.selfsup.data.order import Groups, windowed_order
from vicreg_workers.selfsup.errors import InvalidInput

Locate = Callable[[str], Path]
"""From a path relative to the data root to an absolute one, with symbolic links followed. Raises
ValueError if the path is outside the root or does not exist."""


class Images(ABC):
    """A set of images, each with a label or none of them."""

    labels: Sequence[int]
    """The class of each image: an index into ``classes``; 0 if there are no classes."""
    classes: Sequence[str]
    """The names of the classes; empty if the images have no labels."""
    several: Tensor | None = None
    """``[N, C]`` of 1, 0, or -1 for unknown if images have several labels each, else None. With
    several, ``labels`` holds the first that is 1."""

    groups: Groups | None = None
    """Images that are best read together; None if all orders are as fast."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def open(self, index: int) -> AnyPicture:
        """Image ``index``, of which nothing but the header need be decoded.

        Raises:
            OSError: it cannot be read.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """A name for people: the path of image ``index`` if it has one."""

    def read(self, index: int) -> Image.Image:
        """Image ``index``, decoded, in RGB.

        Raises:
            OSError: it cannot be read or decoded.
        """
        return self.open(index).rgb()

    def order(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """The order of an epoch, ``[N]``: a permutation that ``generator`` draws.

        Args:
            batch_size: images of a step, over all workers.
            generator: draws it.
        """
        if self.groups is None:
            return torch.randperm(len(self), generator=generator)
        return windowed_order(self.groups, batch_size, generator)

    def will_read(self, indices: Sequence[int]) -> None:  # noqa: B027 (a disk needs no telling)
        """Told which images are wanted soon, in order, by the process that trains."""


class EncodedImages(Images):
    """Images that are stored encoded.

    Args:
        exif: whether they are turned as their cameras noted.
    """

    def __init__(self, exif: Orientation) -> None:
        self._exif = exif

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The encoded bytes of image ``index``.

        Raises:
            OSError: they cannot be read.
        """

    def open(self, index: int) -> Picture:
        """See ``Images.open``."""
        return Picture(self.content(index), self._exif)


def unreadable(images: Images, indices: Sequence[int]) -> list[str]:
    """What to tell the user of images that were left out: one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for index in indices:
        name, reason = images.name(index), "it can be read now"
        try:
            images.read(index)
        except OSError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        by_reason.setdefault(reason.replace(name, "it"), []).append(name)
    return [
        f"left out an image that cannot be read: {names[0]}: {reason}"
        if len(names) == 1
        else f"left out {len(names)} images that cannot be read, such as {names[0]}: {reason}"
        for reason, names in by_reason.items()
    ]


def classes_in_train(train: Images, test: Images) -> Tensor:
    """For each class of the test images, the index of the training class of the same name.

    Returns:
        ``[classes of the test images]``; -1 for a class without test images or training class.

    Raises:
        InvalidInput: there are test images of a class that the training images lack.
    """
    known = train.classes
    held = set(test.labels) if test.classes else set()
    unknown = sorted({test.classes[label] for label in held} - set(known))
    if unknown:
        raise InvalidInput(
            f"data.test holds classes that data.train does not: {', '.join(unknown[:5])}"
        )
    index = {name: number for number, name in enumerate(known)}
    return torch.tensor([index.get(name, -1) for name in test.classes])
