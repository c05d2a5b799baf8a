"""Images with masks, which give each pixel a class."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vicreg_platform.specs import SegmentationData
from vicreg_platform.specs.data import LAYOUT_CLASSES
from vicreg_platform.specs.image_files import IMAGE_SUFFIXES, is_hidden
from vicreg_workers.selfsup.data.images import EncodedImages, Locate
from vicreg_workers.selfsup.data.layouts.listed_files import check_listed_files, voc_names
from vicreg_workers.selfsup.data.layouts.names import Names
from vicreg_workers.selfsup.errors import InvalidInput

IGNORED = -1
"""The class of pixels that are ignored."""
LABEL_MODES = ("P", "L", "1", "I", "I;16", "I;16L", "I;16B")
"""Pillow's names for pixels that are one number each."""


class MaskedImages(EncodedImages):
    """Images with masks, in one of the layouts of ``SegmentationData``.

    An image whose mask cannot be read, or is of another size, counts as unreadable itself.

    Args:
        spec: where they are.
        path: the folder that ``spec.path`` names.
        locate: finds a path under the data root.

    Raises:
        InvalidInput: there are no images, an image has no mask, or a file leads out of the data
            root.
    """

    classes: Sequence[str] = ()
    several: Tensor | None = None

    def __init__(self, spec: SegmentationData, path: Path, locate: Locate) -> None:
        # A mask lies as its image is stored, whatever the camera noted.
        super().__init__("ignore")
        self._spec = spec
        self._root = path
        images, masks = _pairs(spec, path)
        rule = f"every image of layout {spec.layout} needs a mask of the same name"
        check_listed_files(spec.path, path, [*images, *masks], locate, rule)
        self._set(images, masks)

    def _set(self, images: Sequence[str], masks: Sequence[str]) -> None:
        self._images, self._masks = Names(images), Names(masks)
        """Paths in the folder."""
        self.labels: Sequence[int] = [0] * len(images)

    def only(self, indices: Sequence[int]) -> MaskedImages:
        """Those at some indices."""
        part = object.__new__(MaskedImages)
        part.__dict__.update(self.__dict__)
        part._set([self._images[i] for i in indices], [self._masks[i] for i in indices])
        return part

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, index: int) -> bytes:
        """See ``EncodedImages.content``."""
        return Path(self.name(index)).read_bytes()

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return os.path.join(self._root, self._images[index])

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return self.pair(index)[0]

    def pair(self, index: int) -> tuple[Image.Image, Tensor]:
        """An image in RGB, and its mask, int32 ``[H, W]``: classes, or ``IGNORED``.

        Raises:
            OSError: one of them cannot be read, or their sizes differ.
        """
        image, mask = self.open(index).rgb(), self.mask(index)
        high, wide = mask.shape
        if image.size != (wide, high):
            raise OSError(
                f"its mask is {wide}×{high} pixels and the image {image.width}×{image.height}: "
                "save both at one size"
            )
        return image, mask

    def mask(self, index: int) -> Tensor:
        """The mask of an image, int32 ``[H, W]``: classes, or ``IGNORED``.

        Raises:
            OSError: it cannot be read.
        """
        name = os.path.join(self._root, self._masks[index])
        try:
            with Image.open(io.BytesIO(Path(name).read_bytes())) as image:
                mode, labels = image.mode, np.array(image, dtype=np.int32)
        except Exception as error:  # Pillow's decoders report broken files by almost any
            raise OSError(f"its mask {name}: {error}") from error
        if mode not in LABEL_MODES:
            raise OSError(
                f"the pixels of its mask {name} are {mode}, not class numbers: save it as a "
                "palette or grayscale PNG"
            )
        mask = torch.from_numpy(labels)
        if self._spec.layout == "ade20k":
            # 0 is for other things than the classes (the benchmark's ``objectInfo150.txt``).
            return mask - 1
        return mask.masked_fill_(mask == self._spec.ignore_index, IGNORED)

    def mask_name(self, index: int) -> str:
        """The path of the mask of image ``index``."""
        return os.path.join(self._root, self._masks[index])

    def class_count(self) -> int:
        """How many classes there are: as the spec or the layout says, or one above the highest.

        Raises:
            InvalidInput: no mask has a class.
        """
        known = self._spec.num_classes or LAYOUT_CLASSES.get(self._spec.layout)
        if known is not None:
            return known
        highest = IGNORED
        for index in range(len(self)):
            try:
                highest = max(highest, int(self.mask(index).max()))
            except OSError:
                continue  # left out later, with a warning
        if highest == IGNORED:
            raise InvalidInput(f"data: no pixel of the masks in {self._root} has a class")
        return highest + 1


def _pairs(spec: SegmentationData, path: Path) -> tuple[list[str], list[str]]:
    """The paths in the folder of the images, sorted, and of their masks.

    Raises:
        InvalidInput: the layout is another one.
    """
    if spec.layout == "voc":
        names = voc_names(
            path / "ImageSets" / "Segmentation" / f"{spec.split}.txt",
            "ImageSets, JPEGImages and SegmentationClass",
        )
        return (
            [f"JPEGImages/{name}.jpg" for name in names],
            [f"SegmentationClass/{name}.png" for name in names],
        )
    images, masks = (
        (f"images/{spec.split}", f"annotations/{spec.split}")
        if spec.layout == "ade20k"
        else ("images", "masks")
    )
    try:
        files = sorted(os.listdir(path / images))
    except OSError:
        raise InvalidInput(
            f"data.path: layout {spec.layout} has a folder {images}, and {path} does not"
        ) from None
    files = [
        name for name in files if name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name)
    ]
    if not files:
        raise InvalidInput(f"data.path: there are no images in {path / images}")
    stems = [os.path.splitext(name)[0] for name in files]
    return [f"{images}/{name}" for name in files], [f"{masks}/{stem}.png" for stem in stems]
