"""Images per second that reach the training, by layout, and against other ways of reading them.

``python -m tests.benchmarks.input`` prints the tables of docs/performance.md and docs/data.md. The
images are JPEG files of 500×375 pixels: random parts of the two photographs that scikit-learn
ships. All of one table is measured in turn, on one core unless the table says otherwise, with two
views of 224 pixels per image. webdataset and DALI are not part of the environment: ``make bench``
installs them beside it; FFCV does not install by pip.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from tests.benchmarks.step import authors_views
from tests.object_store import CREDENTIALS, object_store_server
from vicreg_platform.specs import (
    Augmentation,
    Data,
    HuggingFaceData,
    ImageFolderData,
    TorchvisionData,
    WebDatasetData,
)
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.read_crops import ReadCrops
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.data.training_batches import ViewBatches

IMAGES = 256
SIZE = 224
BATCH = 64
ROUNDS = 5
LOADERS = (1, 2, 4)
CLASSES = ("n01440764", "n02102040", "n02979186", "n03000684")
"""Of Imagenette, whose layout torchvision reads."""
MANY = 1_281_167
"""Images of ImageNet."""
BUCKET = "images"


def photographs(count: int) -> list[bytes]:
    """JPEG files of 500×375 pixels: parts of real photographs at random scales."""
    generator = np.random.default_rng(0)
    originals = [Image.fromarray(each) for each in load_sample_images().images]
    files = []
    for number in range(count):
        original = originals[number % len(originals)]
        width = int(generator.integers(320, 641))
        height = min(427, width * 3 // 4)
        left = int(generator.integers(0, original.width - width + 1))
        top = int(generator.integers(0, original.height - height + 1))
        part = original.crop((left, top, left + width, top + height))
        buffer = io.BytesIO()
        part.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def write_layouts(root: Path, files: list[bytes]) -> dict[str, Data]:
    """Write the images in every layout that the platform reads; returns how each is named."""
    for number, content in enumerate(files):
        for folder in ("folder", "torchvision/imagenette2/train"):
            file = root / folder / CLASSES[number % len(CLASSES)] / f"{number:06d}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    (root / "shards").mkdir()
    for shard in range(4):
        with tarfile.open(root / "shards" / f"{shard:03d}.tar", "w") as tar:
            for number in range(shard, len(files), 4):
                for kind, content in (
                    ("jpg", files[number]),
                    ("cls", b"%d" % (number % len(CLASSES))),
                ):
                    member = tarfile.TarInfo(f"{number:06d}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    rows = pa.table(
        {
            "image": [{"bytes": content, "path": None} for content in files],
            "label": [number % len(CLASSES) for number in range(len(files))],
        }
    )
    for folder in ("parquet", "arrow"):
        (root / folder).mkdir()
    pq.write_table(rows, root / "parquet" / "0.parquet", row_group_size=64)
    with (
        pa.OSFile(str(root / "arrow" / "0.arrow"), "wb") as file,
        pa.ipc.new_stream(file, rows.schema) as writer,
    ):
        writer.write_table(rows)
    size = {"image_size": SIZE}
    return {
        "folder": ImageFolderData(source="image_folder", path="folder", **size),
        "shards on a disk": WebDatasetData(source="webdataset", shards="shards", **size),
        "Parquet": HuggingFaceData(source="huggingface", path="parquet", **size),
        "Arrow": HuggingFaceData(source="huggingface", path="arrow", **size),
        "torchvision (Imagenette)": TorchvisionData(
            source="torchvision", dataset="Imagenette", path="torchvision", **size
        ),
    }


def batches_of(images: Images, loaders: int, resample: str = "torch") -> ViewBatches:
    return ViewBatches(
        images,
        Augmentation.model_validate({"resample": resample}),
        views=2,
        image_size=SIZE,
        batch_size=BATCH,
        seed=0,
        epochs=1_000_000,
        device=torch.device("cpu"),
        loaders=loaders,
        hold="never",
    )


def cropping(images: Images, resample: str) -> Callable[[], int]:
    """What a loader process does, done here: it reads, decodes and cuts the crops of an epoch."""
    batches = batches_of(images, 0, resample)
    crops = batches.crops
    assert isinstance(crops, ReadCrops)
    steps, make = batches.steps, crops.cropped

    def run() -> int:
        chosen = itertools.islice(steps.after(0, 0), len(steps))
        return sum(len(make[each][1]) for each in chosen)

    return run


def loading(images: Images, loaders: int) -> Callable[[], int]:
    """The crops of an epoch, as loader processes hand them over."""
    batches = batches_of(images, loaders)
    crops = iter(batches.crops.of(batches.steps.after(0, 0)))
    return lambda: sum(len(next(crops).indices) for _ in range(len(batches)))


def whole(images: Images, resample: str) -> Callable[[], int]:
    """Crops, colours and normalisation, all in this process."""
    batches = batches_of(images, 0, resample)
    epochs = itertools.count()
    return lambda: sum(len(batch.indices) for batch in batches.epoch(next(epochs)))


def by_authors(files: list[bytes]) -> Callable[[], int]:
    views = authors_views(SIZE)

    def run() -> int:
        for content in files:
            views(Image.open(io.BytesIO(content)).convert("RGB"))
        return len(files)

    return run


def by_torchvision_v2(files: list[bytes]) -> Callable[[], int]:
    """torchvision's decoder and its transforms of bytes, image by image."""

    def view(blur: float, solarize: float) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(
                    SIZE, interpolation=transforms.InterpolationMode.BICUBIC, antialias=True
                ),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], blur),
                v2.RandomSolarize(128, solarize),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    first, second = view(1.0, 0.0), view(0.1, 0.2)

    def run() -> int:
        for content in files:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            image = decode_jpeg(data, mode=ImageReadMode.RGB)
            first(image), second(image)
        return len(files)

    return run


def by_webdataset(root: Path) -> Callable[[], int]:
    """webdataset's pipeline with the authors' transforms."""
    import webdataset

    views = authors_views(SIZE)
    pipeline = (
        webdataset.WebDataset(
            [str(each) for each in sorted((root / "shards").glob("*.tar"))],
            shardshuffle=False,
            empty_check=False,
        )
        .shuffle(100)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(views)
    )
    return lambda: sum(1 for _ in pipeline)


def by_dali(root: Path) -> Callable[[], int]:
    """DALI on one CPU thread: crops and mirrors alone, as what a loader process does."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> tuple[Any, ...]:
        content, _ = fn.readers.file(file_root=str(root / "folder"), random_shuffle=True)
        images = fn.decoders.image(content, device="cpu", output_type=types.RGB)
        views = []
        for _ in range(2):
            view = fn.random_resized_crop(
                images, size=SIZE, random_area=(0.08, 1.0), interp_type=types.INTERP_CUBIC
            )
            views.append(fn.flip(view, horizontal=fn.random.coin_flip()))
        return tuple(views)

    made = pipeline()
    made.build()

    def run() -> int:
        for _ in range(IMAGES // BATCH):
            made.run()
        return IMAGES // BATCH * BATCH

    return run


def rates(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Images per second of each way, the median of rounds taken in turn; one thread."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            done = run()
            found[name].append(done / (time.perf_counter() - started))
    return {name: statistics.median(each[1:]) for name, each in found.items()}


def print_ways(root: Path, layouts: dict[str, Data], files: list[bytes], rounds: int) -> None:
    images = opened(root, layouts["folder"])
    crops: dict[str, Callable[[], int]] = {
        "ours": cropping(images, "torch"),
        "ours, `resample: pillow` (as before 0.3.0)": cropping(images, "pillow"),
        # Theirs changes the colours too.
        "the authors' transforms: what their loader process does": by_authors(files),
    }
    views: dict[str, Callable[[], int]] = {
        "ours": whole(images, "torch"),
        "ours, `resample: pillow` (as before 0.3.0)": whole(images, "pillow"),
        "the authors' transforms": by_authors(files),
        "torchvision v2 on bytes": by_torchvision_v2(files),
    }
    with suppress(ImportError):
        views["webdataset with the authors' transforms"] = by_webdataset(root)
    with suppress(ImportError):
        crops["DALI on one CPU thread"] = by_dali(root)
    for title, ways in (
        ("crops alone: what a loader process does", crops),
        ("whole views: crops, colours, normalisation", views),
    ):
        print(f"| {title} | images/s per core | ours, as a ratio |\n|---|---|---|")
        measured = rates(ways, rounds)
        for name, rate in measured.items():
            print(f"| {name} | {rate:.0f} | {measured['ours'] / rate:.2f} |")
        print(flush=True)


def opened(root: Path, spec: Data) -> Images:
    return open_images(spec, lambda path: (root / path).resolve())


def print_layouts(root: Path, layouts: dict[str, Data], rounds: int) -> None:
    print(
        "| layout | "
        + " | ".join(f"{count} loader{'s' * (count > 1)}" for count in LOADERS)
        + " |\n|---|"
        + "---|" * len(LOADERS)
    )
    for name, spec in layouts.items():
        images = opened(root, spec)
        cells = [
            f"{rates({name: loading(images, loaders)}, rounds)[name]:.0f}" for loaders in LOADERS
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print()


@contextmanager
def store(root: Path) -> Iterator[Data]:
    """The shards in moto's S3."""
    import boto3  # type: ignore[import-untyped]

    with object_store_server() as address:
        os.environ |= {"AWS_ENDPOINT_URL": address} | CREDENTIALS
        os.environ["VICREG_CACHE"] = str(root / "cache")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for shard in (root / "shards").iterdir():
            client.upload_file(str(shard), BUCKET, f"shards/{shard.name}")
        yield WebDatasetData(source="webdataset", shards=f"s3://{BUCKET}/shards", image_size=SIZE)


def print_boundary(root: Path, layouts: dict[str, Data]) -> None:
    """How long the training waits for the crops of an epoch's first step, and of the others.

    A step of the training takes 1.5 times as long as its loader needs for it.
    """
    batches = batches_of(opened(root, layouts["folder"]), 1)
    crops = iter(batches.crops.of(batches.steps.after(0, 0)))
    first: list[float] = []
    others: list[float] = []
    seconds = 1.5 * BATCH / cropping_rate(root, layouts)
    for step in range(8 * len(batches)):
        started = time.perf_counter()
        next(crops)
        waited = time.perf_counter() - started
        if step >= len(batches):
            (others if step % len(batches) else first).append(waited)
        time.sleep(seconds)
    print("| the training waits for the crops of | median, s | of a step |\n|---|---|---|")
    for name, waits in (("an epoch's first step", first), ("any other", others)):
        median = statistics.median(waits)
        print(f"| {name} | {median:.3f} | {median / seconds:.2f} |")
    print()


def cropping_rate(root: Path, layouts: dict[str, Data]) -> float:
    return rates({"": cropping(opened(root, layouts["folder"]), "torch")}, 1)[""]


def print_many(count: int) -> None:
    """A folder as large as ImageNet: how long until the first batch, and the memory of a loader."""
    with tempfile.TemporaryDirectory() as folder:
        content = photographs(1)[0]
        for label in range(1000):
            of_class = Path(folder) / "set" / f"n{label:08d}"
            of_class.mkdir(parents=True)
            (of_class / "first.JPEG").write_bytes(content)
            for number in range(1, count // 1000):
                os.link(of_class / "first.JPEG", of_class / f"n{label:08d}_{number:06d}.JPEG")
        print("| images | first batch, s | memory of a loader beyond torch's, MB |\n|---|---|---|")
        for name in ("none", "set"):
            answer = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.input", "--first", f"{folder}/{name}"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            if name == "none":
                bare = float(answer)
                continue
            images, seconds, megabytes = (float(each) for each in answer.split())
            print(f"| {images:,.0f} | {seconds:.1f} | {megabytes - bare:.0f} |\n")


def first_batch(folder: Path) -> None:
    """Print the images of a folder, the seconds to a first batch, and a loader's memory in MB.

    Without a folder: the memory of a loader that has loaded nothing.
    """
    if not folder.exists():
        loader = DataLoader(_Memory(), num_workers=1, batch_size=None)
        print(max(loader))
        return
    started = time.perf_counter()
    spec = ImageFolderData(source="image_folder", path=folder.name, image_size=SIZE)
    images = open_images(spec, lambda path: folder.parent / path)
    batches = batches_of(images, 1)
    stream = batches.epoch(0)
    for _ in range(3):
        next(stream)
    seconds = time.perf_counter() - started
    (loader_process,) = psutil.Process().children()
    print(len(images), seconds, loader_process.memory_full_info().uss / 1e6)


class _Memory(Dataset[float]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> float:
        if number:
            raise IndexError(number)
        return float(psutil.Process().memory_full_info().uss / 1e6)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--first", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.first is not None:
        first_batch(asked.first)
        return
    files = photographs(asked.images)
    size = sum(map(len, files)) / len(files) / 1e3
    print(f"{asked.images} JPEG files of 500×375 pixels, {size:.0f} kB; two views of {SIZE}\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        layouts = write_layouts(root, files)
        print_ways(root, layouts, files, asked.rounds)
        with store(root) as shards:
            print_layouts(root, layouts | {"shards in S3, cached": shards}, asked.rounds)
        print_boundary(root, layouts)
    print_many(asked.many)


if __name__ == "__main__":
    main()
