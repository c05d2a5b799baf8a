"""Reads all images of a data source, and reports what they are: ``vicreg data check``."""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from vicreg_platform.contract.data_report import ClassCount, DataReport, Duplicates
from vicreg_platform.specs import Augmentation
from vicreg_workers.data.command import (
    EXAMPLES,
    decode,
    in_parallel,
    one_message,
    progress_bar,
    source_arguments,
    unreadable,
)
from vicreg_workers.data.source import open_source, shown
from vicreg_workers.selfsup.data.decoding import AnyPicture, Picture
from vicreg_workers.selfsup.data.images import EncodedImages, Images
from vicreg_workers.selfsup.data.read_crops import ReadCrops
from vicreg_workers.selfsup.data.shared_memory import HERE
from vicreg_workers.selfsup.data.steps import Chosen

VIEWS = 2
BLOCK = 64
"""Images that a process reads before it reports."""
DIGEST = 16
"""In bytes."""
TIMED = 256
"""Images whose crops are timed at most."""
TIMED_SECONDS = 10.0
"""No step is begun after it."""
STEP = 16
"""Images of a step that is timed."""


class Seen(NamedTuple):
    """What reading one image has shown."""

    image: int
    """Its index."""
    digest: bytes
    """Of its encoded bytes; of its pixels, if its source has no others. Empty if it has no bytes
    that can be read."""
    encoded_bytes: int = 0
    width: int = 0
    height: int = 0
    mode: str = ""
    orientation: int = 1
    """As in EXIF: 1 is upright."""
    problem: str | None = None
    """Why it cannot be decoded."""


def check(
    images: Images,
    source: str,
    image_size: int,
    gpu_rate: float | None = None,
    limit: int | None = None,
    workers: int = 1,
) -> DataReport:
    """Read images, and report what they are.

    Args:
        images: what to read.
        source: what they were taken for.
        image_size: side of the crops that are timed, in pixels.
        gpu_rate: images whose two views a GPU trains on in a second.
        limit: how many to read, evenly spread; None reads all.
        workers: processes that read.

    Raises:
        Unreachable: they lie in a store that does not answer.
    """
    count = len(images) if limit is None else min(limit, len(images))
    chosen = [place * len(images) // count for place in range(count)]
    found = _Findings(images, len(chosen))
    blocks = _Blocks(images, chosen)
    with progress_bar("reading", len(chosen)) as (progress, task):
        for block in in_parallel(blocks, len(blocks), workers):
            for seen in block:
                found.add(seen)
            progress.advance(task, len(block))
    broken = found.broken()
    rate = None if len(broken) == count else images_per_second(images, broken, image_size)
    return DataReport(
        source=source,
        images=len(images),
        **_classes(images),
        **found.facts(),
        image_size=image_size,
        images_per_second=rate,
        gpu_rate=gpu_rate,
        cpus_per_worker=None if gpu_rate is None or rate is None else cpus_for(gpu_rate, rate),
    )


def cpus_for(gpu_rate: float, per_core: float) -> int:
    """CPUs that a worker needs: one trains, and the others make views for it.

    Args:
        gpu_rate: images whose two views the GPU trains on in a second.
        per_core: images whose two views one core makes in a second.
    """
    return 1 + math.ceil(gpu_rate / per_core)


def images_per_second(
    images: Images,
    broken: Collection[int],
    image_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float | None:
    """How many images one core reads, decodes and crops twice in a second, as a training does.

    Neither a disk nor a store is timed: the images have been read just before.

    Args:
        images: what to read, in the order of an epoch.
        broken: those that cannot be read.
        image_size: side of a crop, in pixels.
        clock: in seconds.

    Returns:
        The rate; None if all are broken.
    """
    order = images.order(STEP, torch.Generator().manual_seed(0)).tolist()
    chosen = list(islice((index for index in order if index not in broken), TIMED))
    if not chosen:
        return None
    steps = [
        Chosen(part, (0, first), 0, len(part), (image_size,) * VIEWS)
        for first in range(0, len(chosen), STEP)
        if (part := chosen[first : first + STEP])
    ]
    spec, device = Augmentation.model_validate({}), torch.device("cpu")
    crops = ReadCrops(images, spec, device, HERE, "bicubic")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _make(crops, steps, clock)
        made, seconds = _make(crops, steps, clock)
    finally:
        torch.set_num_threads(threads)
    return made / seconds


def _make(crops: ReadCrops, steps: list[Chosen], clock: Callable[[], float]) -> tuple[int, float]:
    """Make the crops of these steps, as far as time allows: how many images, in how long."""
    made, start = 0, clock()
    for step in steps:
        for _ in crops.of([step]):
            made += len(step.indices)
        if clock() - start > TIMED_SECONDS:
            break
    return made, clock() - start


class _Blocks(Dataset[list[Seen]]):
    def __init__(self, images: Images, chosen: Sequence[int]) -> None:
        self._images = images
        self._chosen = chosen

    def __len__(self) -> int:
        return math.ceil(len(self._chosen) / BLOCK)

    def __getitem__(self, block: int) -> list[Seen]:
        indices = self._chosen[block * BLOCK : (block + 1) * BLOCK]
        return [_seen(self._images, index) for index in indices]


def _seen(images: Images, index: int) -> Seen:
    digest, size = b"", 0
    try:
        if isinstance(images, EncodedImages):
            content = images.content(index)
            digest, size = _digest(content), len(content)
            picture: AnyPicture = Picture(content)
            mode = picture.mode
            decode(picture)
        else:
            picture = images.open(index)
            mode = picture.mode
            digest = _digest(picture.rgb().tobytes())
    except OSError as error:
        return Seen(index, digest, size, problem=unreadable(images.name(index), error))
    return Seen(index, digest, size, picture.width, picture.height, mode, picture.orientation)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


class _Findings:
    """Puts together what was seen, in little memory: there may be millions of images."""

    def __init__(self, images: Images, count: int) -> None:
        self._images = images
        self._count = 0
        self._index = np.zeros(count, np.int64)
        self._digests = np.zeros(count, f"V{DIGEST}")
        self._shapes = np.zeros((count, 2), np.int64)
        self._has_bytes = np.zeros(count, bool)
        self._encoded_bytes = 0
        self._rotated = 0
        self._modes: Counter[str] = Counter()
        self._broken: list[tuple[int, str]] = []

    def add(self, seen: Seen) -> None:
        """Take one image."""
        place = self._count
        self._count += 1
        self._index[place] = seen.image
        self._digests[place] = seen.digest
        self._has_bytes[place] = bool(seen.digest)
        self._encoded_bytes += seen.encoded_bytes
        if seen.problem is not None:
            self._broken.append((seen.image, seen.problem))
            return
        self._shapes[place] = seen.width, seen.height
        self._modes[seen.mode] += 1
        self._rotated += seen.orientation in range(2, 9)

    def broken(self) -> set[int]:
        """The images that cannot be decoded."""
        return {image for image, _ in self._broken}

    def facts(self) -> dict[str, object]:
        """Fields of a ``DataReport``."""
        shapes = self._shapes[self._shapes[:, 0] > 0]
        pixels = shapes[:, 0] * shapes[:, 1]
        by_pixels = shapes[np.lexsort((shapes[:, 1], shapes[:, 0], pixels))].tolist()
        sizes = {}
        if by_pixels:
            middle = by_pixels[(len(by_pixels) - 1) // 2]
            sizes = {"smallest": by_pixels[0], "median": middle, "largest": by_pixels[-1]}
        return {
            "read": self._count,
            "encoded_bytes": self._encoded_bytes,
            **sizes,
            "one_size": len(np.unique(shapes, axis=0)) == 1,
            "pixels": int(pixels.sum()),
            "broken": len(self._broken),
            "broken_examples": [problem for _, problem in sorted(self._broken)[:EXAMPLES]],
            "duplicates": self._duplicates(),
            "exif_rotated": self._rotated,
            "modes": dict(self._modes.most_common()),
        }

    def _duplicates(self) -> Duplicates:
        indices = self._index[self._has_bytes]
        _, group, counts = np.unique(
            self._digests[self._has_bytes], return_inverse=True, return_counts=True
        )
        members: dict[int, list[int]] = {}
        for place in np.flatnonzero(counts[group] > 1).tolist():
            members.setdefault(int(group[place]), []).append(int(indices[place]))
        groups = sorted(sorted(each) for each in members.values())
        return Duplicates(
            groups=len(groups),
            images=sum(len(each) - 1 for each in groups),
            examples=[
                [shown(self._images.name(index)) for index in each[:EXAMPLES]]
                for each in groups[:EXAMPLES]
            ],
        )


def _classes(images: Images) -> dict[str, object]:
    if not len(images.classes):
        return {"classes": 0}
    if images.several is None:
        counts = np.bincount(np.asarray(images.labels), minlength=len(images.classes))
    else:
        counts = (images.several == 1).sum(dim=0).numpy()
    names = [shown(name) for name in images.classes]
    order = [label for label in np.argsort(counts, kind="stable").tolist() if counts[label]]
    ranked = [ClassCount(name=names[label], images=int(counts[label])) for label in order]
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    return {
        "classes": len(names),
        "smallest_class": ranked[0] if ranked else None,
        "median_class": ranked[(len(ranked) - 1) // 2] if ranked else None,
        "largest_class": ranked[-1] if ranked else None,
        "empty_classes": [name for name, n in zip(names, counts, strict=True) if not n],
        "similar_classes": [each for each in alike.values() if len(each) > 1],
    }


def main() -> None:
    """Check a data source, as ``vicreg data check`` does, and print the report as JSON."""
    parser = source_arguments("Report what the images of a data source are, as JSON.")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--gpu-rate", type=float)
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    with one_message():
        data, images = open_source(arguments.source, arguments.data_root, arguments.workers)
        report = check(
            images,
            data.source,
            arguments.image_size or data.image_size,
            arguments.gpu_rate,
            arguments.limit,
            arguments.workers,
        )
    print(report.model_dump_json())


if __name__ == "__main__":
    main()
