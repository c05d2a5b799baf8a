"""Images of discs and squares, with a mask for each, in every layout that masks come in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

BACKGROUND, DISC, SQUARE = range(3)
EDGE = 255
"""Label of the pixels between a shape and the background, as in Pascal VOC."""


def drawn_shape(
    generator: np.random.Generator, kind: int, size: int = 32
) -> tuple[Image.Image, np.ndarray]:
    """A grey disc or square, striped one way or the other, on a noisy background, and its mask."""
    rows, columns = np.mgrid[:size, :size]
    radius = generator.uniform(size / 5, size / 3)
    row, column = generator.uniform(radius, size - radius, 2)
    down, across = np.abs(rows - row), np.abs(columns - column)
    distance = np.hypot(down, across) if kind == DISC else np.maximum(down, across)
    mask = np.full((size, size), BACKGROUND, np.uint8)
    mask[distance < radius + 1] = EDGE
    mask[distance < radius - 1] = kind
    # The stripes tell the shapes apart, and no pixel does so alone.
    stripes = (rows if kind == DISC else columns) // 2 % 2
    grey = np.where(mask == BACKGROUND, 110, 60 + 120 * stripes)
    pixels = grey[:, :, None] + generator.integers(-25, 26, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), mask


def save_folders(root: Path, count: int, seed: int) -> Path:
    """``images`` and ``masks``."""
    generator = np.random.default_rng(seed)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(count):
        image, mask = drawn_shape(generator, DISC + index % 2)
        image.save(root / "images" / f"{index}.jpg", quality=95)
        Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    return root


def save_voc(root: Path, **splits: int) -> Path:
    """Pascal VOC's layout: masks have a palette, and lists name the images of each split."""
    generator = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, count in splits.items():
        names = [f"2007_{split}_{index}" for index in range(count)]
        for index, name in enumerate(names):
            image, mask = drawn_shape(generator, DISC + index % 2)
            image.save(root / "JPEGImages" / f"{name}.jpg")
            palette = Image.fromarray(mask)
            palette.putpalette([value for each in range(256) for value in (each, 0, 255 - each)])
            assert palette.mode == "P"
            palette.save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def save_ade20k(root: Path, **splits: int) -> Path:
    """ADE20K's layout: label 0 is for what is none of the classes 1 to 150."""
    generator = np.random.default_rng(0)
    for split, count in splits.items():
        for folder in ("images", "annotations"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            image, mask = drawn_shape(generator, DISC + index % 2)
            name = f"ADE_{split[:5]}_{index:08d}"
            image.save(root / "images" / split / f"{name}.jpg")
            shifted = np.where(mask == EDGE, 0, mask + 1).astype(np.uint8)
            Image.fromarray(shifted).save(root / "annotations" / split / f"{name}.png")
    return root
