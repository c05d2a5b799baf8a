"""Images with objects, each with a box and a class."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from vicreg_platform.specs import DetectionData
from vicreg_workers.selfsup.data.dense.coco_annotations import read_coco
from vicreg_workers.selfsup.data.dense.objects import Annotations, Objects
from vicreg_workers.selfsup.data.dense.voc_annotations import read_voc
from vicreg_workers.selfsup.data.images import EncodedImages, Locate
from vicreg_workers.selfsup.data.layouts.listed_files import check_listed_files, located, voc_names
from vicreg_workers.selfsup.data.layouts.names import Names
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)


class BoxedImages(EncodedImages):
    """Images with objects, in one of the layouts of ``DetectionData``.

    An image of another size than its annotations say counts as unreadable.

    Args:
        spec: where they are.
        locate: finds a path under the data root.

    Raises:
        InvalidInput: annotations are missing or malformed, or an image is missing or leads out of
            the data root.
    """

    classes: Sequence[str] = ()
    several: Tensor | None = None

    def __init__(self, spec: DetectionData, locate: Locate) -> None:
        # A box lies as its image is stored, whatever the camera noted.
        super().__init__("ignore")
        sets = [_annotations(spec, path, locate) for path in (spec.path, *spec.more_paths)]
        names: list[str] = []
        objects: list[Objects] = []
        self.categories = tuple(sorted({name for _, each in sets for name in each.categories}))
        """The names of the objects' classes."""
        if len(sets) == 1:
            self.categories = sets[0][1].categories
        for folder, each in sets:
            names += [os.path.join(folder, file) for file in each.files]
            objects += _renumbered(each.objects, each.categories, self.categories)
        left_out = [where for _, each in sets for where in each.left_out]
        if left_out:
            logger.warning(
                "left out %d objects that have no area in their images, such as one of %s",
                len(left_out),
                left_out[0],
            )
        if not any(len(each.boxes) for each in objects):
            raise InvalidInput(f"data.path: no image that {spec.path} names has an object")
        self.masks = False
        """Whether an image counts as unreadable if an object's outline is."""
        self._set(names, objects)

    def _set(self, names: Sequence[str], objects: Sequence[Objects]) -> None:
        self._names, self._objects = Names(names), objects
        self.labels: Sequence[int] = [0] * len(names)

    def only(self, indices: Sequence[int]) -> BoxedImages:
        """Those at some indices."""
        part = object.__new__(BoxedImages)
        part.__dict__.update(self.__dict__)
        part._set([self._names[i] for i in indices], [self._objects[i] for i in indices])
        return part

    def numbered_as(self, categories: Sequence[str]) -> BoxedImages:
        """The same, with the indices of other classes.

        Raises:
            InvalidInput: an object is of none of them.
        """
        same = object.__new__(BoxedImages)
        same.__dict__.update(self.__dict__)
        same._objects = _renumbered(self._objects, self.categories, categories)
        same.categories = tuple(categories)
        return same

    def __len__(self) -> int:
        return len(self.labels)

    def content(self, index: int) -> bytes:
        """See ``EncodedImages.content``."""
        return Path(self.name(index)).read_bytes()

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._names[index]

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        image, objects = self.pair(index)
        if self.masks:
            # Imported here: the masks are drawn by pycocotools, which few need.
            from vicreg_workers.selfsup.data.dense.instance_masks import instance_masks

            instance_masks(objects, image.width, image.height)
        return image

    def pair(self, index: int) -> tuple[Image.Image, Objects]:
        """An image in RGB, and its objects.

        Raises:
            OSError: it cannot be read, or its size is not that of its annotations.
        """
        image, objects = self.open(index).rgb(), self._objects[index]
        if image.size != (objects.width, objects.height):
            raise OSError(
                f"it is {image.width}×{image.height} pixels and its annotations say "
                f"{objects.width}×{objects.height}: they are of another image"
            )
        return image, objects

    def objects(self, index: int) -> Objects:
        """The objects of an image."""
        return self._objects[index]


def _annotations(spec: DetectionData, folder: str, locate: Locate) -> tuple[Path, Annotations]:
    """The folder of images, and what their annotations say."""
    path = located(locate, folder, "data.path")
    if spec.layout == "coco":
        assert spec.annotations is not None
        read = read_coco(located(locate, spec.annotations, "data.annotations"))
        rule = f"it must have every image that {spec.annotations} names"
        check_listed_files(folder, path, read.files, locate, rule)
        return path, read
    listed = f"ImageSets/Main/{spec.split}.txt"
    if (path / listed).exists():
        located(locate, f"{folder}/{listed}", "data.split")
    names = voc_names(path / listed, "ImageSets, JPEGImages and Annotations")
    images = [f"JPEGImages/{name}.jpg" for name in names]
    notes = [f"Annotations/{name}.xml" for name in names]
    rule = "each name in a list needs an image and an annotation"
    check_listed_files(folder, path, [*images, *notes], locate, rule)
    return path, read_voc(path, images, notes)


def _renumbered(
    objects: Sequence[Objects], categories: Sequence[str], others: Sequence[str]
) -> list[Objects]:
    """The objects with indices of other classes.

    Raises:
        InvalidInput: an object is of none of them.
    """
    place = {name: number for number, name in enumerate(others)}
    numbers = np.array([place.get(name, -1) for name in categories], np.int64)
    renumbered = []
    for each in objects:
        new = numbers[each.categories]
        if (new < 0).any():
            unknown = categories[int(each.categories[new < 0][0])]
            raise InvalidInput(
                f"data.test: there are objects of the class {unknown}, which data.train does not "
                "have: correct their class, or train on images of it"
            )
        renumbered.append(each._replace(categories=new))
    return renumbered
