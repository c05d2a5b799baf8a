"""Reads objects as Pascal VOC annotates them: an XML file for each image."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vicreg_workers.selfsup.data.dense.objects import Annotations, Object, objects_of
from vicreg_workers.selfsup.errors import InvalidInput


def read_voc(folder: Path, images: list[str], notes: list[str]) -> Annotations:
    """Read the annotations of images.

    The classes are those of their objects, by name. Coordinates count from 1 in VOC, and name the
    first and the last pixel of an object.

    Args:
        folder: what holds the files.
        images: their paths in it.
        notes: the path of each image's annotation.

    Raises:
        InvalidInput: an annotation is malformed.
    """
    read = [_read_one(folder / note) for note in notes]
    categories = sorted({category for _, _, found in read for category, _, _ in found})
    numbers = {category: number for number, category in enumerate(categories)}
    objects, left_out = [], []
    for note, (width, height, found) in zip(notes, read, strict=True):
        inside = objects_of(
            width,
            height,
            [Object(box, numbers[category], difficult) for category, box, difficult in found],
        )
        left_out += [str(folder / note)] * (len(found) - len(inside.boxes))
        objects.append(inside)
    return Annotations(images, objects, tuple(categories), left_out)


_Found = tuple[str, tuple[float, float, float, float], bool]
"""A class, a box, and whether it is difficult."""


def _read_one(file: Path) -> tuple[int, int, list[_Found]]:
    """The width and height of an image, and its objects."""
    try:
        root = _parsed(file.read_bytes())
        width, height = (int(_number(root, f"size/{side}")) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"the size is {width}×{height}")
        objects = [_object(each) for each in root.findall("object")]
    except (OSError, ValueError, expat.ExpatError) as error:
        raise InvalidInput(
            f"data.path: {file} is not an annotation of Pascal VOC: {error}: correct it, or take "
            "its name from the split's list"
        ) from None
    return width, height, objects


def _object(element: Element) -> _Found:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    left, top, right, bottom = (
        _number(element, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = (element.findtext("difficult") or "0").strip() == "1"
    return name, (left - 1, top - 1, right, bottom), difficult


def _number(element: Element, path: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{element.tag} has no {path}")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{path} is {text}")
    return number


def _parsed(content: bytes) -> Element:
    """The root of an XML document without a document type.

    With one, it could define entities, which grow without bound or name other files.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.Parse(content, True)
    return builder.close()


def _refuse(*_: object) -> None:
    raise ValueError("it has a document type")
