"""The objects of an image: their boxes, classes and, if they have any, outlines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LEAST_SIDE = 0.1
"""Of a box, in pixels: resized, a thinner one could have no area in float32."""


class Object(NamedTuple):
    """An object as a file of annotations has it."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom, in pixels from the image's upper left corner."""
    category: int
    """The index of its class."""
    ignored: bool = False
    """Whether it is not trained on, and ignored in the test: a ``difficult`` object of
    VOC, or a crowd of COCO."""
    outline: object = None
    """COCO's ``segmentation``, not yet checked."""


class Objects(NamedTuple):
    """The objects of an image that have an area in it."""

    width: int
    """Of the image, in pixels, as the annotations say."""
    height: int
    boxes: npt.NDArray[np.float32]
    """``[n, 4]``: left, top, right and bottom in pixels, in the image."""
    categories: npt.NDArray[np.int64]
    """``[n]``: indices of classes."""
    ignored: npt.NDArray[np.bool_]
    """``[n]``."""
    outlines: bytes
    """JSON: a list of n ``segmentation``. As Python's objects, those of COCO would take gigabytes,
    in every process that reads images."""


def objects_of(width: int, height: int, objects: Sequence[Object]) -> Objects:
    """The objects of an image, their boxes cut at its edges; those outside it are left out.

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        objects: what was annotated.
    """
    annotated = np.array([each.box for each in objects], np.float64).reshape(-1, 4)
    boxes = annotated.clip(0, [width, height, width, height]).astype(np.float32)
    kept = np.flatnonzero(((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(axis=1))
    inside = [objects[place] for place in kept.tolist()]
    return Objects(
        width,
        height,
        boxes[kept],
        np.array([each.category for each in inside], np.int64),
        np.array([each.ignored for each in inside], np.bool_),
        json.dumps([each.outline for each in inside]).encode(),
    )


class Annotations(NamedTuple):
    """What the annotations of a set of images say."""

    files: list[str]
    """The path of each image in its folder."""
    objects: list[Objects]
    """Of each image."""
    categories: tuple[str, ...]
    """The names of the classes."""
    left_out: list[str]
    """For each object that has no area in its image, where it is annotated."""
