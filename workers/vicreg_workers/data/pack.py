"""Packs the images of a data source into tar shards: ``vicreg data pack``.

* ``<destination>/``
  - ``pack.json``: what is packed and how; a later run with the same plan resumes
  - ``shard-000000.tar`` …: as of the ``webdataset`` library, each complete or not there
  - ``index.npz``: where in the shards each image lies, see ``shard_index``
  - ``manifest.json``: what the shards hold; written last
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from vicreg_platform.specs.image_files import IMAGE_SUFFIXES
from vicreg_workers.data.command import (
    EXAMPLES,
    decode,
    in_parallel,
    one_message,
    progress_bar,
    source_arguments,
    unreadable,
    warn,
)
from vicreg_workers.data.source import open_source, shown
from vicreg_workers.selfsup.data.decoding import AnyPicture, Picture
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.dense.masked_images import MaskedImages
from vicreg_workers.selfsup.data.images import EncodedImages, Images
from vicreg_workers.selfsup.data.layouts.image_folder import ImageFolder
from vicreg_workers.selfsup.data.layouts.shard_index import Shard, make_index
from vicreg_workers.selfsup.data.layouts.shards import INDEX, MANIFEST, Shards
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.storage import Folder

FORMAT = 1
"""Of the manifest and the plan: another number, another layout."""
PLAN = "pack.json"
MB = 10**6
BATCH = 64
"""Images of the plan that are drawn from different places of a source that is read in groups."""
SAMPLE = 256
"""Images whose stored sizes stand for those of all, where sizes are not known beforehand."""
TAR_BLOCK = 512
"""Members and their headers fill whole blocks, in bytes."""
LABEL_BYTES = 2 * TAR_BLOCK
KEY_LENGTH = 80
"""Of the image's old name in its key: the name of a member has room for 100 bytes."""
SIGNATURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
"""How files begin whose bytes are kept; WebP is told by two places."""


@dataclass(frozen=True)
class Options:
    """How images are packed."""

    shard_mb: int = 256
    """Size of a shard, in 10⁶ bytes; the last one is smaller."""
    short_side: int | None = None
    """Images whose shorter side has more pixels are resized to it, and stored as JPEG."""
    quality: int = 95
    """Of that JPEG, as Pillow counts."""


class Plan(NamedTuple):
    """Which images lie in which shard."""

    order: Sequence[int]
    """All images, shard by shard."""
    ends: Sequence[int]
    """How many of them the shards up to each have together."""
    digest: str
    """Of all that the shards depend on, but for the pixels."""


class Outcome(NamedTuple):
    """A shard that is complete."""

    number: int
    size: int
    """In bytes."""
    sha256: str
    left_out: list[str]
    """The images that could not be read in this run, with the reasons."""
    kept: bool
    """Whether an earlier run has made it."""


class Summary(NamedTuple):
    """What lies in the destination now."""

    images: int
    left_out: int
    shards: int
    kept: int
    """Shards that an earlier run had made."""
    fingerprint: str
    """Digest of the digests of the shards."""


def pack(
    images: Images, source: str, destination: Path, options: Options, workers: int = 1
) -> Summary:
    """Pack images into shards, in the order of a fixed permutation, so that classes are mixed.

    What is encoded as JPEG, PNG or WebP is copied as it is, and anything else is stored as PNG, in
    RGB and upright. Each shard depends on the list of the images, the options and its number alone:
    shards that an interrupted run has completed are kept.

    Args:
        images: what to pack; each has one label or none.
        source: its name, for people.
        destination: a folder; it is made if it does not exist.
        options: how.
        workers: processes that pack.

    Raises:
        InvalidInput: the destination holds something else or cannot be written, or no image can be
            read.
        Unreachable: the images lie in a store that does not answer.
    """
    if images.several is not None:
        raise InvalidInput("images with several labels each cannot be packed: shards hold one")
    if isinstance(images, MaskedImages):
        raise InvalidInput("images with masks cannot be packed: shards hold no masks")
    if isinstance(images, BoxedImages):
        raise InvalidInput("images with boxes cannot be packed: shards hold no boxes")
    plan = make_plan(images, options)
    with _writing(destination):
        folder = Folder(fsspec.filesystem("file"), str(destination))
        if not folder.holds(PLAN):
            about = {"format": FORMAT, "source": shown(source), "options": asdict(options)}
            _write(folder, PLAN, _json(about | {"images": len(images), "plan": plan.digest}))
        elif _plan_in(folder) != plan.digest:
            raise InvalidInput(
                f"{shown(str(destination))} holds other images, or the same with other options, as "
                f"its {PLAN} says: name another folder, or remove it"
            )
        return _pack(images, source, folder, options, plan, workers)


def _pack(
    images: Images, source: str, folder: Folder, options: Options, plan: Plan, workers: int
) -> Summary:
    work = _Shards(images, folder, options, plan)
    outcomes: list[Outcome] = []
    warned = 0
    with progress_bar("packing", len(images)) as (progress, task):
        for outcome in in_parallel(work, len(plan.ends), workers):
            outcomes.append(outcome)
            for problem in outcome.left_out:
                warned += 1
                if warned <= EXAMPLES:
                    warn(f"left out: {problem}")
            progress.advance(task, len(work.indices(outcome.number)))
    outcomes.sort()
    listed = [Shard(_name(each.number), each.size, "") for each in outcomes]

    def open_shard(shard: Shard) -> BinaryIO:
        return open(f"{folder}/{shard.name}", "rb")

    index = make_index(listed, open_shard, workers if workers > 1 else 0)
    packed = len(index.keys)
    if not packed:
        raise InvalidInput("none of the images can be read")
    if warned > EXAMPLES:
        warn(f"left out: {warned - EXAMPLES} more images that cannot be read")
    fingerprint = hashlib.sha256("".join(each.sha256 for each in outcomes).encode()).hexdigest()
    counts = np.diff(index.ends, prepend=0).tolist()
    _write(folder, INDEX, index.to_bytes())
    manifest = {
        "format": FORMAT,
        "source": shown(source),
        "options": asdict(options),
        "images": packed,
        "left_out": len(images) - packed,
        "classes": list(images.classes),
        "shards": [
            {"name": shard.name, "size": shard.size, "images": count, "sha256": outcome.sha256}
            for shard, count, outcome in zip(listed, counts, outcomes, strict=True)
        ],
        "fingerprint": fingerprint,
    }
    _write(folder, MANIFEST, _json(manifest))
    kept = sum(each.kept for each in outcomes)
    return Summary(packed, len(images) - packed, len(outcomes), kept, fingerprint)


def make_plan(images: Images, options: Options) -> Plan:
    """Deal the images to shards.

    Where the sizes of the files are known, and they are copied, shards are filled up to the size
    that was asked for. Otherwise each gets as many images as a sample says.

    Raises:
        InvalidInput: none of the sample can be read.
    """
    room = options.shard_mb * MB
    # A source that is read in groups gives an order that reads a few of them at a time.
    order = images.order(BATCH, torch.Generator().manual_seed(0)).tolist()
    sizes = None if options.short_side else _sizes(images)
    if sizes is None:
        mean = _mean_size(images, order[:SAMPLE], options)
        count = max(1, int(room / _in_tar(images, mean)))
        ends = [*range(count, len(order), count), len(order)]
    else:
        ends, filled = [], 0.0
        for place, index in enumerate(order):
            size = _in_tar(images, sizes[index])
            if filled and filled + size > room:
                ends.append(place)
                filled = 0
            filled += size
        ends.append(len(order))
    digest = hashlib.sha256(_json({"format": FORMAT, "options": asdict(options)}))
    digest.update(_json({"classes": list(images.classes), "ends": ends}))
    for index in order:
        name = os.path.basename(images.name(index))
        known = 0 if sizes is None else sizes[index]
        line = f"{index}\t{images.labels[index]}\t{known}\t{name}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return Plan(order, ends, digest.hexdigest())


def _sizes(images: Images) -> Sequence[int] | None:
    """The size of each encoded image, if it can be known without reading them."""
    if isinstance(images, Shards):
        return images.sizes
    if isinstance(images, ImageFolder):
        return [_size_of(images.name(index)) for index in range(len(images))]
    return None


def _size_of(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:  # a link that leads nowhere: it is left out when it is read
        return 0


def _mean_size(images: Images, sample: Sequence[int], options: Options) -> float:
    sizes = []
    for index in sample:
        try:
            sizes.append(len(stored(images, index, options)[1]))
        except OSError:
            continue
    if not sizes:
        raise InvalidInput(
            f"none of {len(sample)} images can be read, such as {shown(images.name(sample[0]))}"
        )
    return sum(sizes) / len(sizes)


def _in_tar(images: Images, size: float) -> float:
    """What an image of ``size`` bytes takes in a shard."""
    blocks = -(-size // TAR_BLOCK) + 1
    return blocks * TAR_BLOCK + (LABEL_BYTES if len(images.classes) else 0)


def stored(images: Images, index: int, options: Options) -> tuple[str, bytes]:
    """What a shard holds of image ``index``: the end of its name, and its bytes.

    Raises:
        OSError: the image cannot be read or decoded.
    """
    content = None
    if isinstance(images, EncodedImages):
        content = images.content(index)
        picture: AnyPicture = Picture(content, "apply")
    else:
        picture = images.open(index)
    short = min(picture.width, picture.height)
    if options.short_side is not None and short > options.short_side:
        scale = options.short_side / short
        size = (round(picture.width * scale), round(picture.height * scale))
        # As the training's crops are resized: Lanczos sharpens edges, and a second resize again.
        smaller = picture.rgb().resize(size, Image.Resampling.BICUBIC)
        return "jpg", _encoded(smaller, "JPEG", quality=options.quality)
    kind = None if content is None else _kind(content)
    if content is None or kind is None:
        return "png", _encoded(picture.rgb(), "PNG")
    decode(picture)
    return kind, content


def _kind(content: bytes) -> str | None:
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


class _Shards(Dataset[Outcome]):
    """Makes each shard that is not there."""

    def __init__(self, images: Images, folder: Folder, options: Options, plan: Plan) -> None:
        self._images = images
        self._folder = folder
        self._options = options
        self._order = np.asarray(plan.order)
        self._ends = plan.ends

    def indices(self, number: int) -> list[int]:
        """The images of a shard."""
        start = self._ends[number - 1] if number else 0
        indices: list[int] = self._order[start : self._ends[number]].tolist()
        return indices

    def __getitem__(self, number: int) -> Outcome:
        name = _name(number)
        path = f"{self._folder}/{name}"
        left_out: list[str] = []
        kept = os.path.exists(path)
        try:
            if not kept:
                with self._folder.writer(name) as file:
                    self._fill(file, number, left_out)
            with open(path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _cannot_write(path, error) from None
        return Outcome(number, os.path.getsize(path), sha256, left_out, kept)

    def _fill(self, file: BinaryIO, number: int, left_out: list[str]) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in self.indices(number):
                try:
                    kind, content = stored(self._images, index, self._options)
                except OSError as error:
                    left_out.append(unreadable(self._images.name(index), error))
                    continue
                key = _key(index, self._images.name(index))
                _add(tar, f"{key}.{kind}", content)
                if len(self._images.classes):
                    _add(tar, f"{key}.cls", str(self._images.labels[index]).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # Its time, owner and mode are always the same: so are the bytes of the shard.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _key(index: int, name: str) -> str:
    """A name without dots, which end a key, and without what another system could not store."""
    stem, end = os.path.splitext(os.path.basename(name))
    if end.lower() not in IMAGE_SUFFIXES:
        stem += end
    return f"{index:08d}-{re.sub('[^A-Za-z0-9-]+', '_', stem)[-KEY_LENGTH:]}"


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


@contextmanager
def _writing(destination: Path) -> Iterator[None]:
    """While in it, no other process packs into ``destination``.

    Raises:
        InvalidInput: one does, or the folder holds something else.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(destination, os.O_RDONLY)
    except OSError as error:
        raise _cannot_write(str(destination), error) from None
    try:
        _claim(destination, descriptor)
        yield
    finally:
        os.close(descriptor)


def _claim(destination: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = os.listdir(destination)
        if names and not any(name.startswith(PLAN) for name in names):
            raise InvalidInput(f"{shown(str(destination))} is not empty: name another folder")
        for name in names:
            if name.endswith(".part"):  # of a run that was killed
                os.unlink(destination / name)
    except BlockingIOError:
        raise InvalidInput(
            f"another process packs into {shown(str(destination))}: wait until it ends"
        ) from None
    except OSError as error:
        raise _cannot_write(str(destination), error) from None


def _write(folder: Folder, name: str, content: bytes) -> None:
    try:
        folder.write(name, content)
    except OSError as error:
        raise _cannot_write(f"{folder}/{name}", error) from None


def _cannot_write(path: str, error: OSError) -> InvalidInput:
    advice = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = ": make room, and run the same command again to resume"
    return InvalidInput(f"{shown(path)} cannot be written: {error.strerror or error}{advice}")


def _plan_in(folder: Folder) -> object:
    try:
        return json.loads(folder.read(PLAN))["plan"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _json(data: object) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def main() -> None:
    """Pack a data source, as ``vicreg data pack`` does, and print one line."""
    parser = source_arguments("Pack the images of a data source into tar shards.")
    parser.add_argument("destination", type=Path)
    parser.add_argument("--shard-mb", type=int, default=Options.shard_mb)
    parser.add_argument("--short-side", type=int)
    parser.add_argument("--quality", type=int, default=Options.quality)
    given = parser.parse_args()
    options = Options(given.shard_mb, given.short_side, given.quality)
    with one_message():
        data, images = open_source(given.source, given.data_root, given.workers)
        done = pack(images, given.source, given.destination, options, given.workers)
    kept = f", {done.kept} of them from before" if done.kept else ""
    print(
        f"{shown(str(given.destination))}: {done.images} images of {data.source} in {done.shards} "
        f"shards{kept}; {done.left_out} left out; fingerprint {done.fingerprint[:16]}"
    )


if __name__ == "__main__":
    main()
