"""Reads objects as COCO annotates them: one JSON file for all images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from vicreg_workers.selfsup.data.dense.objects import Annotations, Object, objects_of
from vicreg_workers.selfsup.errors import InvalidInput

T = TypeVar("T")
_Entry = dict[str, Any]


def read_coco(file: Path) -> Annotations:
    """Read the annotations of a set of images.

    The classes are the file's categories, in the order of their ids.

    Args:
        file: as ``instances_train2017.json`` (cocodataset.org, "data format").

    Raises:
        InvalidInput: it is missing or malformed.
    """
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"data.annotations: {file} cannot be read as JSON: {error}: name a file such as COCO's "
            "instances_train2017.json"
        ) from None
    names = dict(_each(file, content, "categories", _category))
    places = {number: place for place, number in enumerate(sorted(names))}
    images = dict(_each(file, content, "images", _image))
    objects: dict[int, list[Object]] = {number: [] for number in images}

    def add(entry: _Entry) -> None:
        image, category = _whole(entry, "image_id"), _whole(entry, "category_id")
        if image not in objects:
            raise ValueError(f"there is no image with the id {image}")
        if category not in places:
            raise ValueError(f"there is no category with the id {category}")
        crowd = entry.get("iscrowd") in (1, True)
        box = _box(entry)
        objects[image].append(Object(box, places[category], crowd, entry.get("segmentation")))

    _each(file, content, "annotations", add)
    files, read, left_out = [], [], []
    for number, (name, width, height) in images.items():
        found = objects.pop(number)
        files.append(name)
        read.append(objects_of(width, height, found))
        left_out += [f"{file} (image {name})"] * (len(found) - len(read[-1].boxes))
    return Annotations(files, read, tuple(names[number] for number in sorted(names)), left_out)


def _each(file: Path, content: object, key: str, read: Callable[[_Entry], T]) -> list[T]:
    """What ``read`` makes of each entry of a list of the file.

    Raises:
        InvalidInput: there is no such list, or ``read`` raises ValueError.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(
            f"data.annotations: {file} has no {key}: name a file such as COCO's "
            "instances_train2017.json"
        )
    made = []
    for place, entry in enumerate(entries):
        try:
            if not isinstance(entry, dict):
                raise ValueError("it is not an object")
            made.append(read(entry))
        except ValueError as error:
            raise InvalidInput(
                f"data.annotations: {file}: {key}[{place}]: {error}: correct the file"
            ) from None
    return made


def _category(entry: _Entry) -> tuple[int, str]:
    return _whole(entry, "id"), _text(entry, "name")


def _image(entry: _Entry) -> tuple[int, tuple[str, int, int]]:
    """Its id, and its path, width and height."""
    name = _text(entry, "file_name")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or "\0" in name:
        raise ValueError(f"file_name {name} leads out of the folder of the images")
    width, height = _whole(entry, "width"), _whole(entry, "height")
    if min(width, height) < 1:
        raise ValueError(f"the image is {width}×{height} pixels")
    return _whole(entry, "id"), (name, width, height)


def _box(entry: _Entry) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, of ``bbox``: left, top, width and height."""
    box = entry.get("bbox")
    numbers = box if isinstance(box, list) else []
    if len(numbers) != 4 or not all(_is_number(each) for each in numbers):
        raise ValueError(f"bbox must be four numbers, not {str(box)[:100]}")
    left, top, width, height = (float(each) for each in numbers)
    return left, top, left + width, top + height


def _is_number(value: object) -> bool:
    # NaN and infinity, which Python's JSON knows, are none.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -1e9 < value < 1e9


def _whole(entry: _Entry, key: str) -> int:
    value = entry.get(key)
    if type(value) is not int or not abs(value) < 2**62:
        raise ValueError(f"{key} must be an integer, not {str(value)[:100]}")
    return value


def _text(entry: _Entry, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a text, not {str(value)[:100]}")
    return value
