"""Images in tar shards, on a disk or in an object store."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from vicreg_platform.specs import WebDatasetData
from vicreg_platform.specs.data import expand_braces
from vicreg_workers.selfsup.data.images import EncodedImages, Locate
from vicreg_workers.selfsup.data.layouts.keep import Keep, parsed, read_kept, write_kept
from vicreg_workers.selfsup.data.layouts.remote_files import RemoteFiles
from vicreg_workers.selfsup.data.layouts.shard_index import NO_LABEL, Shard, ShardIndex, make_index
from vicreg_workers.selfsup.data.order import Groups
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import InvalidInput

logger = logging.getLogger(__name__)

INDEX = "index.npz"
"""The index that ``vicreg data pack`` writes beside the shards."""
MANIFEST = "manifest.json"
"""What else it writes there; it holds the names of the classes."""
OPEN_FILES = 128
"""Shards that a process keeps open."""
LANES = 64
"""Shards of an object store that are read side by side."""
WINDOW = 256
"""Images of a lane that are shuffled with each other: with 64 lanes, among 16,384."""


class Shards(EncodedImages):
    """Images in tar shards.

    Those on a disk are read at their places, in any order. Those in an object store are read
    through a cache on this machine's disk, a few shards at a time: see ``order``.

    Args:
        spec: where they are.
        locate: finds a path under the data root.
        keep: where their index is kept; None keeps none.
        loaders: processes that may be used to make the index.

    Raises:
        InvalidInput: there are none, or one cannot be read.
        Unreachable: the object store does not answer.
    """

    def __init__(
        self, spec: WebDatasetData, locate: Locate, keep: Keep | None, loaders: int
    ) -> None:
        super().__init__(spec.exif)
        self._files = RemoteFiles(spec.shards) if spec.remote else _LocalFiles(spec.shards, locate)
        self._index = _indexed(self._files, keep, loaders)
        if rank() == 0:
            for problem in self._index.problems:
                logger.warning("data: %s", problem)
        count = len(self._index.offsets)
        if not count:
            raise InvalidInput(f"data.shards: there are no images in {spec.shards}")
        self._set_labels(spec)
        if spec.remote:
            sizes = np.diff(self._index.ends, prepend=0)
            self.groups = Groups(sizes.tolist(), LANES, WINDOW)

    def _set_labels(self, spec: WebDatasetData) -> None:
        labels = np.asarray(self._index.labels)
        without = np.flatnonzero(labels == NO_LABEL)
        self.labels: Sequence[int] = self._index.labels
        if not len(without):
            count = int(labels.max()) + 1
            names = _class_names(self._files.beside(MANIFEST), count)
            self.classes: Sequence[str] = names or [str(number) for number in range(count)]
            return
        self.classes = []
        self.labels = array("i", bytes(4 * len(labels)))
        if len(without) < len(labels) and rank() == 0:
            logger.warning(
                "data: %d of the %d images in %s have no label, such as %s: all are taken to have "
                "none",
                len(without),
                len(labels),
                spec.shards,
                self._index.keys[int(without[0])],
            )

    def __len__(self) -> int:
        return len(self._index.offsets)

    @property
    def sizes(self) -> Sequence[int]:
        """How many bytes each encoded image has."""
        sizes: list[int] = self._index.sizes.tolist()
        return sizes

    def content(self, index: int) -> bytes:
        """See ``EncodedImages.content``."""
        return self._files.read(*self._place(index))

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        shard = self._index.shards[self._index.shard_of(index)]
        return f"{shard.name}: {self._index.keys[index]}"

    def will_read(self, indices: Sequence[int]) -> None:
        """See ``Images.will_read``."""
        self._files.will_read([self._place(index) for index in indices])

    def _place(self, index: int) -> tuple[Shard, int, int]:
        shard = self._index.shards[self._index.shard_of(index)]
        return shard, int(self._index.offsets[index]), int(self._index.sizes[index])


class _LocalFiles:
    """Shards on a disk.

    Raises:
        InvalidInput: there are none.
    """

    def __init__(self, pattern: str, locate: Locate) -> None:
        names = expand_braces(pattern)
        try:
            paths = [locate(name) for name in names]
        except ValueError as error:
            raise InvalidInput(f"data.shards: {error}") from None
        if len(names) == 1 and paths[0].is_dir():
            paths = [locate(str(PurePosixPath(names[0]) / tar)) for tar in _tars(paths[0])]
            if not paths:
                raise InvalidInput(f"data.shards: there are no .tar files in {names[0]}")
        try:
            self.shards = [_as_it_is(path) for path in paths]
        except OSError as error:
            raise InvalidInput(f"data.shards: {error}") from None
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._process = os.getpid()

    def open(self, shard: Shard) -> BinaryIO:
        """Open a shard to read from its beginning."""
        return open(shard.name, "rb")

    def beside(self, name: str) -> bytes | None:
        """The content of a file beside the shards, if there is one."""
        try:
            return Path(self.shards[0].name).with_name(name).read_bytes()
        except OSError:
            return None

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Bytes of a shard.

        Raises:
            OSError: it is gone, has been replaced or cut off.
        """
        content = os.pread(self._descriptor(shard), size, offset)
        if len(content) < size:
            raise OSError(f"{shard.name} has been cut off since the training began")
        return content

    def will_read(self, places: Sequence[tuple[Shard, int, int]]) -> None:
        """Nothing: a disk needs no telling."""

    def _descriptor(self, shard: Shard) -> int:
        if self._process != os.getpid():
            # A fork may use what its parent has opened, but not close it a second time.
            self._descriptors, self._process = OrderedDict(self._descriptors), os.getpid()
        if shard.name not in self._descriptors:
            self._descriptors[shard.name] = os.open(shard.name, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._descriptors) > OPEN_FILES:
                os.close(self._descriptors.popitem(last=False)[1])
        self._descriptors.move_to_end(shard.name)
        descriptor = self._descriptors[shard.name]
        # Each time: a file that is open may be written to. It takes a microsecond.
        if _state(os.fstat(descriptor)) != (shard.size, shard.changed):
            os.close(self._descriptors.pop(shard.name))
            raise OSError(f"{shard.name} has been replaced since the training began")
        return descriptor


def _tars(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".tar"))


def _as_it_is(path: Path) -> Shard:
    return Shard(str(path), *_state(path.stat()))


def _state(status: os.stat_result) -> tuple[int, str]:
    return status.st_size, str(status.st_mtime_ns)


def _class_names(manifest: bytes | None, count: int) -> list[str] | None:
    """The names of the classes in a manifest, if it holds enough.

    Another tool's file of this name may hold anything.
    """
    try:
        names = json.loads(manifest or b"{}")["classes"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names if len(names) >= count else None


def _indexed(files: _LocalFiles | RemoteFiles, keep: Keep | None, loaders: int) -> ShardIndex:
    """The index of the shards: the kept one, the one beside them, or a new one."""
    names = "\n".join(shard.name for shard in files.shards)
    kept = f"shards-{hashlib.sha256(names.encode(errors='replace')).hexdigest()[:32]}.npz"
    index = read_kept(keep, kept, ShardIndex.from_bytes)
    if index is not None and list(index.shards) == files.shards:
        return index
    packed = parsed(files.beside(INDEX), INDEX, ShardIndex.from_bytes)
    if packed is not None and _called(packed.shards) == _called(files.shards):
        return replace(packed, shards=files.shards)
    logger.info("listing the images of %d shards", len(files.shards))
    index = make_index(files.shards, files.open, loaders)
    write_kept(keep, kept, index.to_bytes)
    return index


def _called(shards: Sequence[Shard]) -> list[tuple[str, int]]:
    """What two copies of the same shards have in common."""
    return [(os.path.basename(shard.name), shard.size) for shard in shards]
