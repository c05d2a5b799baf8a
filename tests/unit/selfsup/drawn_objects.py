"""Images of discs and squares, with a box for each, in every layout that boxes come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

KINDS = ("disc", "square")


class Drawn(NamedTuple):
    """An object: its class, its box (left, top, right, bottom) and its mask ``[H, W]``."""

    kind: str
    box: tuple[int, int, int, int]
    mask: np.ndarray


def drawn_objects(
    generator: np.random.Generator, count: int, size: int = 64
) -> tuple[Image.Image, list[Drawn]]:
    """Grey discs and squares on a noisy background, which do not overlap.

    They are striped one way or the other: no pixel tells them apart alone.
    """
    rows, columns = np.mgrid[:size, :size]
    pixels = np.full((size, size, 3), 110)
    taken = np.zeros((size, size), bool)
    objects: list[Drawn] = []
    while len(objects) < count:
        kind = KINDS[generator.integers(2)]
        radius = int(generator.integers(size // 8, size // 5))
        row, column = generator.integers(radius, size - radius, 2)
        down, across = rows - row + 0.5, columns - column + 0.5
        far = np.hypot(down, across) if kind == "disc" else np.maximum(abs(down), abs(across))
        mask = far < radius
        if (taken & mask).any():
            break
        taken |= mask
        stripes = (rows if kind == "disc" else columns) // 2 % 2
        pixels[mask] = (60 + 120 * stripes)[mask][:, None]
        box = (column - radius, row - radius, column + radius, row + radius)
        objects.append(Drawn(kind, tuple(int(each) for each in box), mask))  # type: ignore[arg-type]
    noisy = pixels + generator.integers(-40, 41, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), objects


def save_voc(root: Path, seed: int = 0, size: int = 64, **splits: int) -> Path:
    """Pascal VOC's layout: an XML file for each image, and lists of the images of each split."""
    generator = np.random.default_rng(seed)
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, count in splits.items():
        names = [f"{root.name}_{split}_{index:03d}" for index in range(count)]
        for name in names:
            image, objects = drawn_objects(generator, int(generator.integers(1, 3)), size)
            image.save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            (root / "Annotations" / f"{name}.xml").write_text(voc_note(size, size, objects))
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def voc_note(width: int, height: int, objects: list[Drawn], difficult: int = 0) -> str:
    """An annotation; VOC counts pixels from 1, and names an object's first and last."""
    found = "".join(
        f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        "</bndbox></object>\n"
        for kind, (left, top, right, bottom), _ in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n{size}\n{found}</annotation>\n"


def save_coco(images: Path, notes: Path, count: int, seed: int = 0, size: int = 64) -> None:
    """COCO's layout: squares have polygons, and discs are run lengths."""
    generator = np.random.default_rng(seed)
    for folder in (images, notes.parent):
        folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        # The ids of COCO's categories have gaps, and are in no order of the names.
        "categories": [{"id": 7, "name": "square"}, {"id": 18, "name": "disc"}],
    }
    for index in range(count):
        image, objects = drawn_objects(generator, int(generator.integers(1, 3)), size)
        name = f"{index:012d}.jpg"
        image.save(images / name, quality=95)
        number = 100 + index
        content["images"].append({"id": number, "file_name": name, "width": size, "height": size})
        for kind, (left, top, right, bottom), mask in objects:
            corners = [left, top, right, top, right, bottom, left, bottom]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": number,
                    "category_id": 7 if kind == "square" else 18,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                    "segmentation": [corners] if kind == "square" else run_lengths(mask),
                }
            )
    notes.write_text(json.dumps(content))


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed run lengths: by columns, the first of pixels outside."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int), [0]])
    changes = np.flatnonzero(np.diff(flat)).tolist()
    ends = [0, *changes, mask.size]
    return {"size": list(mask.shape), "counts": np.diff(ends).tolist()}
