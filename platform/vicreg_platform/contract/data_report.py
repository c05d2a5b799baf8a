"""What ``vicreg data check`` found: written by a process that has torch, printed by the command."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ClassCount(BaseModel):
    """A class, and how many images it has."""

    name: str
    images: int


class Duplicates(BaseModel):
    """Images whose encoded bytes are the same."""

    groups: int
    images: int
    """How many could be removed without losing one."""
    examples: list[list[str]]
    """The first groups."""


class DataReport(BaseModel):
    """What a set of images is made of. What is not Unicode in a name is escaped."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    source: str
    """What it was taken for: a ``source`` of specs."""
    images: int
    read: int
    """How many of them were read: the rest of the report, but for classes, is about these."""
    classes: int
    """0 if there are no labels."""
    smallest_class: ClassCount | None = None
    """Of those with an image."""
    median_class: ClassCount | None = None
    largest_class: ClassCount | None = None
    empty_classes: list[str] = []
    similar_classes: list[list[str]] = []
    """Names that differ only in case."""
    encoded_bytes: int
    smallest: tuple[int, int] | None = None
    """Width and height of the image with the fewest pixels; None if none can be read."""
    median: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    one_size: bool = False
    """Whether all have the same width and height."""
    pixels: int
    """Of all images."""
    broken: int
    broken_examples: list[str]
    """The first ones, with the reason."""
    duplicates: Duplicates
    exif_rotated: int
    """Images that are not upright as they are stored: ``exif: apply`` turns them."""
    modes: dict[str, int]
    """Images of each kind of pixels, in Pillow's words: ``RGB``, ``L``, ``CMYK``, …"""
    image_size: int
    """Side of the crops whose making was timed."""
    images_per_second: float | None = None
    """Images that one core reads, decodes and crops twice in a second, from memory; None if none
    can be read."""
    gpu_rate: float | None = None
    """Images whose two views a GPU trains on in a second, as the user stated."""
    cpus_per_worker: int | None = None
    """``resources.cpus_per_worker`` that keeps such a GPU busy."""
