"""Where in its shards each image lies.

An index is made once for a set of shards, by reading the headers of their members, and kept in the
storage: it is used for shards of the same sizes and times of change. ``vicreg data pack`` writes
one beside the shards: it is used for shards of the same names and sizes.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset

from vicreg_workers.selfsup.data.layouts.keep import arrays_of
from vicreg_workers.selfsup.data.layouts.names import Names
from vicreg_workers.selfsup.errors import InvalidInput, SelfsupError

logger = logging.getLogger(__name__)

IMAGES = ("jpg", "jpeg", "png", "webp")
"""The ends of the names of images."""
NO_LABEL = -1
MAX_CLASSES = 1_000_000


class Shard(NamedTuple):
    """A shard as it was when its members were listed."""

    name: str
    """Its path or URL."""
    size: int
    """In bytes."""
    changed: str
    """When it was last changed, or its ETag: another text, another content."""


class Members(NamedTuple):
    """The images of a shard, in the order of their places in it."""

    keys: list[str]
    offsets: list[int]
    """Of the encoded bytes."""
    sizes: list[int]
    labels: list[int]
    """``NO_LABEL`` for none."""
    problems: list[str]
    """What is wrong with the shard, for people."""


@dataclass(frozen=True)
class ShardIndex:
    """The images of some shards, shard by shard."""

    shards: Sequence[Shard]
    ends: np.ndarray
    """How many images the shards up to each have together, ``[shards]``."""
    offsets: np.ndarray
    """Where the bytes of each image begin in its shard, ``[N]``."""
    sizes: np.ndarray
    """How many they are, ``[N]``."""
    labels: Sequence[int]
    """The class of each image; ``NO_LABEL`` for none."""
    keys: Names
    problems: Sequence[str] = ()
    """What is wrong with the shards, for people."""

    def shard_of(self, index: int) -> int:
        """The number of the shard that image ``index`` lies in."""
        return int(np.searchsorted(self.ends, index, side="right"))

    def to_bytes(self) -> bytes:
        """The index as a file."""
        buffer = io.BytesIO()
        np.savez(
            buffer,
            shards=np.frombuffer(json.dumps(self.shards).encode(), dtype=np.uint8),
            ends=self.ends,
            offsets=self.offsets,
            sizes=self.sizes,
            labels=np.asarray(self.labels, dtype=np.int32),
            keys=self.keys.content,
            key_ends=self.keys.ends,
            problems=np.frombuffer(json.dumps(self.problems).encode(), dtype=np.uint8),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> ShardIndex:
        """What ``to_bytes`` wrote.

        Raises:
            ValueError: it is something else.
        """
        with arrays_of(content, "an index of shards") as file:
            shards = [Shard(*each) for each in json.loads(file["shards"].tobytes())]
            # Indexes of earlier versions have none.
            noted = file["problems"].tobytes() if "problems" in file else b"[]"
            index = cls(
                shards,
                file["ends"],
                file["offsets"],
                file["sizes"],
                array("i", file["labels"].astype(np.int32).tobytes()),
                Names.of(file["keys"], file["key_ends"]),
                json.loads(noted),
            )
            counts = {len(index.offsets), len(index.sizes), len(index.labels), len(index.keys)}
            total = int(index.ends[-1]) if len(index.ends) else 0
            if counts != {total} or len(index.ends) != len(shards):
                raise ValueError("its parts have different lengths")
        return index


def make_index(
    shards: Sequence[Shard], open_shard: Callable[[Shard], BinaryIO], loaders: int
) -> ShardIndex:
    """List the members of all shards.

    Args:
        shards: in order.
        open_shard: opens one to read from its beginning; seekable. Raises OSError.
        loaders: processes that may read shards side by side; with 0, this process reads them.

    Raises:
        InvalidInput: a shard cannot be read, or some images have labels and others none.
    """
    ends, offsets, sizes, labels = array("q"), array("q"), array("q"), array("i")
    keys: list[str] = []
    problems: list[str] = []
    scans: DataLoader[Members | SelfsupError] = DataLoader(
        _Scans(shards, open_shard), batch_size=None, num_workers=min(loaders, len(shards))
    )
    for shard, found in zip(shards, scans, strict=True):
        if isinstance(found, SelfsupError):
            raise found
        keys += found.keys
        problems += found.problems
        offsets.extend(found.offsets)
        sizes.extend(found.sizes)
        labels.extend(found.labels)
        ends.append(len(keys))
        if len(ends) % 100 == 0:
            logger.info(
                "listed %d of %d shards, %s being the last", len(ends), len(shards), shard.name
            )
    return ShardIndex(
        shards,
        np.asarray(ends),
        np.asarray(offsets),
        np.asarray(sizes),
        labels,
        Names(keys),
        problems,
    )


class _Scans(Dataset[Members | SelfsupError]):
    """The members of each shard, or why it cannot be read: a loader would add its traceback."""

    def __init__(self, shards: Sequence[Shard], open_shard: Callable[[Shard], BinaryIO]) -> None:
        self._shards = shards
        self._open = open_shard

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, number: int) -> Members | SelfsupError:
        if number >= len(self._shards):
            raise IndexError(number)
        shard = self._shards[number]
        try:
            with self._open(shard) as file:
                return members_of(file, shard)
        except OSError as error:
            return InvalidInput(f"data.shards: {shard.name} cannot be read: {error}")
        except SelfsupError as error:
            return error


def members_of(file: BinaryIO, shard: Shard) -> Members:
    """List the images of a shard.

    Args:
        file: the shard, seekable.
        shard: what it is called.

    Raises:
        OSError: it cannot be read, or is not a tar file.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    problems = []
    try:
        for key, kind, member, read in _parts(file, shard):
            if kind in IMAGES:
                images[key] = (member.offset_data, member.size)
            elif kind in ("cls", "json"):
                try:
                    labels[key] = _label(kind, read())
                except (ValueError, TypeError, OverflowError, RecursionError) as error:
                    problems.append(f"{shard.name}: the label of {key} is left out: {error}")
    except tarfile.ReadError as error:
        if not images:
            raise OSError(f"it is not a tar file: {error}") from None
        problems.append(
            f"{shard.name} is damaged or cut off: only the {len(images)} images before that place "
            "are used"
        )
    lost = labels.keys() - images.keys()
    if lost:
        problems.append(
            f"{shard.name}: {len(lost)} keys have a label and no image, such as {min(lost)}: they "
            "are left out"
        )
    return Members(
        list(images),
        [offset for offset, _ in images.values()],
        [size for _, size in images.values()],
        [labels.get(key, NO_LABEL) for key in images],
        problems,
    )


def _parts(
    file: BinaryIO, shard: Shard
) -> Iterator[tuple[str, str, tarfile.TarInfo, Callable[[], bytes]]]:
    """Key, kind, header and reader of each file of a shard.

    Raises:
        tarfile.ReadError: the shard ends in the middle of a member, or is not a tar file.
    """
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
        for member in tar:
            if not member.isfile():
                continue
            if member.offset_data + member.size > shard.size:
                raise tarfile.ReadError("unexpected end of data")
            folder, name = os.path.split(member.name)
            stem, _, kind = name.partition(".")

            def read(member: tarfile.TarInfo = member) -> bytes:
                opened = tar.extractfile(member)
                assert opened is not None  # it is a file
                return opened.read()

            yield os.path.join(folder, stem), kind.lower(), member, read


def _label(kind: str, content: bytes) -> int:
    value: Any = content
    if kind == "json":
        fields = json.loads(content)
        if not isinstance(fields, dict):
            raise ValueError("its JSON is not an object")
        value = fields.get("cls", fields.get("label", NO_LABEL))
    label = int(value)
    if not NO_LABEL <= label < MAX_CLASSES:
        raise ValueError(f"{label} is not the number of a class")
    return label
