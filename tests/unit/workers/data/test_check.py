"""A report says what a set of images is made of."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.workers.image_sets import encoded, folder_of, opened, parquet_of, shards_of
from vicreg_platform.contract.data_report import DataReport
from vicreg_workers.data.check import TIMED_SECONDS, check, cpus_for, images_per_second
from vicreg_workers.data.source import open_source
from vicreg_workers.selfsup.errors import InvalidInput


def report_of(source: Path, limit: int | None = None, workers: int = 1) -> DataReport:
    return check(opened(source), "image_folder", image_size=16, limit=limit, workers=workers)


def test_classes_are_counted(tmp_path: Path) -> None:
    counts = {"ant": 5, "bee": 2, "Bee": 9, "cat": 3, "dog": 0}
    report = report_of(folder_of(tmp_path / "set", counts))
    assert (report.images, report.read, report.classes) == (19, 19, 5)
    ranked = (report.smallest_class, report.median_class, report.largest_class)
    assert [(each.name, each.images) for each in ranked if each] == [
        ("bee", 2), ("cat", 3), ("Bee", 9),
    ]  # fmt: skip
    assert report.empty_classes == ["dog"]
    assert report.similar_classes == [["Bee", "bee"]]


def test_images_without_labels_have_no_classes(tmp_path: Path) -> None:
    report = report_of(folder_of(tmp_path / "set", {".": 3}))
    assert (report.classes, report.largest_class) == (0, None)


def test_several_labels_an_image_are_all_counted(tmp_path: Path) -> None:
    folder_of(tmp_path / "set", {".": 3})
    rows = ["image,red,round", "photo.0.jpg,1,1", "photo.1.jpg,0,1", "photo.2.jpg,,1"]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "spec.yaml").write_text(
        "kind: pretrain\ndata: {source: image_folder, path: set, labels: labels.csv}\n"
    )
    data, images = open_source(str(tmp_path / "spec.yaml"), tmp_path, workers=0)
    report = check(images, data.source, image_size=16)
    assert report.smallest_class is not None
    assert report.largest_class is not None
    assert (report.smallest_class.name, report.smallest_class.images) == ("red", 1)
    assert (report.largest_class.name, report.largest_class.images) == ("round", 3)


def test_broken_images_are_named_with_the_reason(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3})
    (source / "cat" / "torn.jpg").write_bytes(encoded(1, (64, 64))[:-600])
    (source / "cat" / "empty.png").touch()
    (source / "cat" / "text.png").write_text("not an image")
    (source / "cat" / "lost.png").symlink_to("nowhere")
    report = report_of(source)
    assert (report.broken, report.images) == (4, 7)
    empty, lost, text, torn = report.broken_examples
    assert empty == f"{source}/cat/empty.png: it is empty"
    assert lost == f"{source}/cat/lost.png: No such file or directory"
    assert text.endswith("it is not an image")
    assert "truncated" in torn


def test_a_set_of_broken_images_is_reported(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(12):
        (tmp_path / "set" / f"{number}.png").touch()
    report = report_of(tmp_path / "set")
    assert (report.broken, len(report.broken_examples)) == (12, 10)
    assert (report.median, report.images_per_second, report.modes) == (None, None, {})


def test_duplicates_are_found_by_their_bytes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 4, "dog": 3})
    shutil.copy(source / "cat" / "photo.0.jpg", source / "dog" / "same.jpg")
    shutil.copy(source / "cat" / "photo.0.jpg", source / "dog" / "once more.jpg")
    shutil.copy(source / "cat" / "photo.1.jpg", source / "cat" / "copy.jpg")
    duplicates = report_of(source).duplicates
    assert (duplicates.groups, duplicates.images) == (2, 3)
    names = [[os.path.relpath(name, source) for name in group] for group in duplicates.examples]
    assert names == [
        ["cat/copy.jpg", "cat/photo.1.jpg"],
        ["cat/photo.0.jpg", "dog/once more.jpg", "dog/same.jpg"],
    ]


def test_rotated_images_and_kinds_of_pixels_are_counted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"cat": 3}) / "cat"
    exif = Image.Exif()
    for orientation in (1, 3, 6):
        exif[0x0112] = orientation
        image = Image.new("RGB", (40, 20), (orientation, 0, 0))
        image.save(folder / f"turned-{orientation}.jpg", exif=exif)
    Image.new("CMYK", (40, 20)).save(folder / "print.jpg")
    Image.new("L", (40, 20)).save(folder / "grey.jpg")
    Image.new("P", (40, 20)).save(folder / "palette.png")
    Image.new("RGBA", (40, 20)).save(folder / "clear.png")
    report = report_of(tmp_path / "set")
    assert report.exif_rotated == 2
    assert report.modes == {"RGB": 6, "CMYK": 1, "L": 1, "P": 1, "RGBA": 1}
    assert report.broken == 0


def test_sizes_are_ranked_by_pixels(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for size in ((10, 90), (30, 40), (20, 20)):
        (tmp_path / "set" / f"{size[0]}.png").write_bytes(encoded(0, size, "PNG"))
    report = report_of(tmp_path / "set")
    assert (report.smallest, report.median, report.largest) == ((20, 20), (10, 90), (30, 40))
    assert report.pixels == 900 + 1200 + 400
    assert not report.one_size


def test_several_processes_report_the_same(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 70, "dog": 70})
    one, two = (report_of(source, workers=workers) for workers in (1, 2))
    assert one.one_size
    speed = {"images_per_second": None}
    assert one.model_copy(update=speed) == two.model_copy(update=speed)


def test_a_limit_spreads_over_the_set(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 10, "dog": 10})
    (source / "dog" / "photo.5.jpg").write_bytes(b"")
    report = report_of(source, limit=4)
    assert (report.images, report.read, report.broken) == (20, 4, 1)


@pytest.mark.parametrize("layout", [shards_of, parquet_of])
def test_shards_and_tables_are_reported(tmp_path: Path, layout: object) -> None:
    assert callable(layout)
    contents = [encoded(seed) for seed in (0, 1, 2, 1)]
    source = layout(tmp_path / "set", [*contents, b"torn"], [0, 1, 1, 1, 0])
    report = report_of(source)
    assert (report.images, report.classes, report.broken) == (5, 2, 1)
    assert report.duplicates.groups == 1
    assert report.images_per_second is not None


def test_a_set_of_torchvision_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.zeros((4, 3072), np.uint8)
    pixels[:, 0] = (1, 2, 2, 3)
    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 1, 2]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abc")}))
    source = f"torchvision:CIFAR10:{tmp_path}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda dataset: True)
        patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
        data, images = open_source(source, Path(), workers=0)
    report = check(images, data.source, image_size=16)
    assert (report.source, report.images, report.classes) == ("torchvision", 20, 3)
    assert (report.duplicates.groups, report.duplicates.images) == (3, 17)
    assert report.one_size


def test_names_in_any_encoding_are_reported(tmp_path: Path) -> None:
    latin = os.fsdecode("müsli".encode("latin-1"))
    source = folder_of(tmp_path / os.fsdecode(b"set\xff"), {latin: 2})
    (source / latin / os.fsdecode(b"\xfe.png")).touch()
    report = report_of(source)
    assert report.largest_class is not None
    assert report.largest_class.name == r"m\xfcsli"
    assert report.broken_examples == [rf"{tmp_path}/set\xff/m\xfcsli/\xfe.png: it is empty"]
    assert DataReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize(
    ("gpu_rate", "per_core", "cpus"), [(1000, 250, 5), (1001, 250, 6), (10, 250, 2), (0, 250, 1)]
)
def test_one_cpu_trains_and_the_others_keep_up(gpu_rate: float, per_core: float, cpus: int) -> None:
    assert cpus_for(gpu_rate, per_core) == cpus


def test_the_rate_is_of_images_by_the_clock(tmp_path: Path) -> None:
    images = opened(folder_of(tmp_path / "set", {"cat": 40}))
    ticks = itertools.count()
    # Two looks at the clock a step but for the first: 3 steps of 16, 16 and 8 images take 4 s.
    rate = images_per_second(images, (), 16, clock=lambda: float(next(ticks)))
    assert rate == 40 / 4


def test_timing_ends_in_time(tmp_path: Path) -> None:
    images = opened(folder_of(tmp_path / "set", {"cat": 40}))
    ticks = itertools.count(step=TIMED_SECONDS + 1)
    rate = images_per_second(images, (), 16, clock=lambda: float(next(ticks)))
    assert rate == 16 / (2 * (TIMED_SECONDS + 1))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda root: folder_of(root, {"cat": 1}), "image_folder"),
        (lambda root: shards_of(root, [encoded(0)], [0]), "webdataset"),
        (lambda root: shards_of(root, [encoded(0)], [0]) / "train-{0..0}.tar", "webdataset"),
        (lambda root: parquet_of(root, [encoded(0)], [0]), "huggingface"),
        (lambda root: parquet_of(root, [encoded(0)], [0]) / "train.parquet", "huggingface"),
    ],
)
def test_the_layout_is_guessed(tmp_path: Path, make: object, kind: str) -> None:
    assert callable(make)
    data, images = open_source(str(make(tmp_path / "set")), Path(), workers=0)
    assert (data.source, len(images)) == (kind, 1)


def test_an_archive_beside_the_classes_is_not_taken(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 2})
    (source / "cat.tar").write_bytes(b"what the class was unpacked from")
    assert len(opened(source)) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("empty", "there are no images"),
        ("notes.txt", "is not a folder of images"),
        ("torchvision:Nothing:.", "has no Nothing"),
        ("ftp://host/train.tar", "must start with one of"),
        ("spec.yaml", "no section `data`"),
    ],
)
def test_what_holds_no_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "spec.yaml").write_text("kind: pretrain")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        open_source(source, Path(), workers=0)


def test_a_user_reads_the_report(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "d[o]g": 4})
    (source / "cat" / "empty.jpg").touch()
    vicreg = shutil.which("vicreg", path=str(Path(sys.executable).parent))
    assert vicreg is not None

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [vicreg, "data", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(str(source), "--image-size", "16", "--gpu-rate", "10")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "taken for image_folder" in lines
    assert "classes 2: smallest cat (4), median cat (4), largest d[o]g (4)" in lines
    assert "broken 1: they are skipped, and `vicreg data pack` leaves them out" in lines
    assert f"{source}/cat/empty.jpg: it is empty" in lines
    assert any(line.startswith("resources cpus_per_worker: 2,") for line in lines)
    report = json.loads(run(str(source), "--json").stdout)
    assert (report["images"], report["image_size"]) == (8, 224)
    # The views are those of the spec.
    spec = tmp_path / "spec.yaml"
    data = {"source": "image_folder", "path": "set", "image_size": 48}
    spec.write_text(json.dumps({"kind": "pretrain", "data": data}))
    report = json.loads(run(str(spec), "--data-root", str(tmp_path), "--json").stdout)
    assert report["image_size"] == 48
    failed = run(str(tmp_path / "nowhere"))
    assert failed.returncode == 1
    assert failed.stderr == f"error: {tmp_path}/nowhere does not exist\n"
