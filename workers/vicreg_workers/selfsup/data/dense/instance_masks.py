"""Draws the masks of objects from their outlines: COCO's polygons and run lengths."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vicreg_workers.selfsup.data.dense.masked_batches import nearest_mask
from vicreg_workers.selfsup.data.dense.objects import Objects


def instance_masks(objects: Objects, width: int, height: int) -> Tensor:
    """The masks of objects in their image, resized to ``width`` and ``height`` pixels.

    Returns:
        uint8 ``[n, height, width]``, 1 inside.

    Raises:
        OSError: an object has no outline, or a malformed one.
    """
    outlines = json.loads(objects.outlines)
    masks = torch.zeros(len(outlines), height, width, dtype=torch.uint8)
    for place, outline in enumerate(outlines):
        try:
            if isinstance(outline, list):
                masks[place] = _of_polygons(objects, outline, width, height)
            else:
                masks[place] = nearest_mask(_of_runs(objects, outline), height, width)
        # pycocotools reports what it cannot read by almost any exception.
        except Exception as error:
            raise OSError(
                f"the segmentation of its object {place} cannot be used: {error}"
            ) from error
    return masks


def _of_polygons(objects: Objects, polygons: list[Any], width: int, height: int) -> Tensor:
    """The union of polygons, each a list of x and y in turn."""
    from pycocotools import mask as coco

    scale = np.array([width / objects.width, height / objects.height])
    scaled = []
    for polygon in polygons:
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        if len(corners) < 3 or not np.isfinite(corners).all():
            raise ValueError("a polygon must be six numbers or more")
        # Drawn from far outside, an edge would take its length in memory.
        scaled.append((corners.clip(0, [objects.width, objects.height]) * scale).ravel().tolist())
    if not scaled:
        raise ValueError("it has no polygon")
    drawn = coco.decode(coco.merge(coco.frPyObjects(scaled, height, width)))
    return torch.from_numpy(np.ascontiguousarray(drawn))


def _of_runs(objects: Objects, outline: Any) -> Tensor:
    """A mask of the image's own size: runs of pixels outside and inside in turn, by columns."""
    if not isinstance(outline, dict):
        raise ValueError("it has none")
    if outline.get("size") != [objects.height, objects.width]:
        raise ValueError(f"its size is not that of the image, {[objects.height, objects.width]}")
    counts = outline.get("counts")
    if isinstance(counts, str):
        from pycocotools import mask as coco

        size = [objects.height, objects.width]
        drawn = np.ascontiguousarray(coco.decode({"size": size, "counts": counts.encode()}))
        return torch.from_numpy(drawn)
    runs = np.array(counts)
    pixels = objects.width * objects.height
    if runs.ndim != 1 or runs.dtype.kind != "i" or (runs < 0).any() or runs.sum() != pixels:
        raise ValueError(f"its counts must be numbers of pixels, {pixels} in all")
    inside = np.repeat(np.arange(len(runs), dtype=np.uint8) % 2, runs)
    return torch.from_numpy(inside.reshape(objects.width, objects.height).T.copy())
