"""Images of any layout are packed into shards that a training reads, and packing can be resumed."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.workers.image_sets import (
    contents_by_class,
    encoded,
    folder_of,
    opened,
    parquet_of,
    shards_of,
)
from vicreg_workers.data import pack as pack_module
from vicreg_workers.data.pack import Options, Summary, pack
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.layouts import shards
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.storage import Folder

CONTENTS = [encoded(seed) for seed in range(12)]
LABELS = [number % 3 for number in range(12)]


def packed(
    source: Path | str, destination: Path, options: Options | None = None, workers: int = 1
) -> Summary:
    return pack(opened(source), str(source), destination, options or Options(), workers)


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Options:
    """Of some 10,000 bytes: half a dozen images."""
    monkeypatch.setattr(pack_module, "MB", 10_000)
    return Options(shard_mb=1)


def test_a_packed_folder_holds_the_same_bytes_and_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "dog": 4, "no images yet": 0})
    packed(source, tmp_path / "out")
    monkeypatch.setattr(shards, "make_index", None)  # the index that lies there is used
    images = opened(tmp_path / "out")
    assert contents_by_class(images) == contents_by_class(opened(source))
    assert list(images.classes) == ["cat", "dog", "no images yet"]


def test_images_without_classes_have_none_when_packed(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {".": 3})
    packed(source, tmp_path / "out")
    images = opened(tmp_path / "out")
    assert (len(images), list(images.classes)) == (3, [])


def test_the_manifest_says_what_the_shards_hold(tmp_path: Path, small_shards: Options) -> None:
    source = folder_of(tmp_path / "set", {"cat": 6, "dog": 6})
    summary = packed(source, tmp_path / "out", small_shards)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["images"] == sum(shard["images"] for shard in manifest["shards"]) == 12
    assert manifest["classes"] == ["cat", "dog"]
    assert manifest["fingerprint"] == summary.fingerprint
    assert len(manifest["shards"]) == summary.shards > 1
    for shard in manifest["shards"]:
        assert (tmp_path / "out" / shard["name"]).stat().st_size == shard["size"]


def test_shards_are_of_the_size_asked_for_and_mix_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_module, "MB", 60_000)
    source = folder_of(tmp_path / "set", {"cat": 40, "dog": 40})
    summary = packed(source, tmp_path / "out", Options(shard_mb=1))
    files = sorted((tmp_path / "out").glob("*.tar"))
    assert len(files) == summary.shards
    assert max(file.stat().st_size for file in files) <= 60_000 + tarfile.RECORDSIZE
    with tarfile.open(files[0]) as tar:
        labels = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".cls")]
        assert {file.read() for file in labels if file is not None} == {b"0", b"1"}


def test_several_processes_make_the_same_bytes_as_one(
    tmp_path: Path, small_shards: Options
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 10, "dog": 10})
    packed(source, tmp_path / "one", small_shards)
    packed(source, tmp_path / "two", small_shards, workers=2)
    assert bytes_in(tmp_path / "one") == bytes_in(tmp_path / "two")


def test_an_interrupted_run_is_resumed(
    tmp_path: Path, small_shards: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 10, "dog": 10})
    whole = packed(source, tmp_path / "whole", small_shards)
    read = pack_module.stored
    reads = 0

    def interrupted(*arguments: object) -> tuple[str, bytes]:
        nonlocal reads
        reads += 1
        if reads > 14:
            raise KeyboardInterrupt
        return read(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "stored", interrupted)
        with pytest.raises(KeyboardInterrupt):
            packed(source, tmp_path / "out", small_shards)
    (tmp_path / "out" / "shard-000009.tar.0123.part").write_bytes(b"of a run that was killed")
    before = {file.name: file.stat() for file in (tmp_path / "out").glob("*.tar")}
    assert 0 < len(before) < whole.shards
    resumed = packed(source, tmp_path / "out", small_shards)
    assert bytes_in(tmp_path / "out") == bytes_in(tmp_path / "whole")
    assert (resumed.kept, resumed.fingerprint) == (len(before), whole.fingerprint)
    for name, status in before.items():
        now = (tmp_path / "out" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)


def test_a_folder_of_other_shards_is_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 2})
    packed(source, tmp_path / "out")
    before = bytes_in(tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"other options.*name another folder"):
        packed(source, tmp_path / "out", Options(short_side=16))
    folder_of(tmp_path / "set", {"dog": 2})
    with pytest.raises(InvalidInput, match="other images"):
        packed(source, tmp_path / "out")
    assert bytes_in(tmp_path / "out") == before


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 2})
    with pytest.raises(InvalidInput, match="is not empty"):
        packed(source, source)


def test_large_images_are_resized_and_small_ones_copied(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "set", {"cat": 1}) / "cat"
    (folder / "large.png").write_bytes(encoded(5, (90, 60), "PNG"))
    (folder / "high.webp").write_bytes(encoded(6, (50, 101), "WEBP"))
    packed(tmp_path / "set", tmp_path / "out", Options(short_side=30))
    images = opened(tmp_path / "out")
    read = [Image.open(io.BytesIO(content)) for _, content in contents_by_class(images)]
    assert sorted((image.size, image.format) for image in read) == [
        ((24, 18), "JPEG"),
        ((30, 61), "JPEG"),
        ((45, 30), "JPEG"),
    ]
    assert encoded(0) in [content for _, content in contents_by_class(images)]


def test_an_image_that_is_resized_is_turned_upright(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.new("RGB", (80, 40)).save(tmp_path / "set" / "photo.jpg", exif=exif)
    packed(tmp_path / "set", tmp_path / "out", Options(short_side=20))
    image = opened(tmp_path / "out").open(0)
    assert ((image.width, image.height), image.orientation) == ((20, 40), 1)


def test_files_that_shards_do_not_hold_are_stored_without_loss(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    for name in ("a.bmp", "b.tif", "c.ppm"):
        Image.fromarray(pixels).save(tmp_path / "set" / name)
    packed(tmp_path / "set", tmp_path / "out")
    images = opened(tmp_path / "out")
    assert len(images) == 3
    for index in range(3):
        np.testing.assert_array_equal(np.asarray(images.read(index)), pixels)


def test_unreadable_images_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "dog": 1})
    (source / "cat" / "torn.jpg").write_bytes(encoded(7, (64, 64))[:600])
    (source / "cat" / "empty.jpg").touch()
    (source / "dog" / "lost.jpg").symlink_to("nowhere.jpg")
    summary = packed(source, tmp_path / "out")
    assert (summary.images, summary.left_out) == (4, 3)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["left_out"] == 3
    warnings = capsys.readouterr().err
    assert warnings.count("left out") == 3
    assert f"{source}/cat/empty.jpg: it is empty" in warnings


def test_a_set_of_unreadable_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "empty.jpg").touch()
    with pytest.raises(InvalidInput, match="none of the images can be read"):
        packed(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_many_unreadable_images_are_named_in_ten_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 1})
    for number in range(13):
        (source / "cat" / f"empty-{number}.jpg").touch()
    packed(source, tmp_path / "out")
    warnings = capsys.readouterr().err
    assert warnings.count("it is empty") == 10
    assert "3 more images" in warnings


@pytest.mark.parametrize("layout", [shards_of, parquet_of])
def test_shards_and_tables_are_packed(tmp_path: Path, layout: object) -> None:
    assert callable(layout)
    source = layout(tmp_path / "set", CONTENTS, LABELS)
    packed(source, tmp_path / "out", workers=2)
    images = opened(tmp_path / "out")
    expected = sorted((str(n), content) for n, content in zip(LABELS, CONTENTS, strict=True))
    assert contents_by_class(images) == expected


def test_images_that_have_no_file_are_stored_without_loss(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("data: {source: digits, split: test, share: 0.5}")
    packed(tmp_path / "spec.yaml", tmp_path / "out")
    before, after = opened(tmp_path / "spec.yaml"), opened(tmp_path / "out")
    assert len(after) == len(before) == 360  # all are packed, not a share

    def pixels(images: Images) -> list[tuple[int, bytes]]:
        return sorted((images.labels[i], images.read(i).tobytes()) for i in range(len(images)))

    assert pixels(after) == pixels(before)


def test_packed_shards_are_packed_again_with_their_classes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "dog": 4})
    packed(source, tmp_path / "out")
    packed(tmp_path / "out", tmp_path / "again", Options(short_side=300))
    assert contents_by_class(opened(tmp_path / "again")) == contents_by_class(opened(source))


def test_names_in_any_encoding_are_packed(tmp_path: Path) -> None:
    latin = os.fsdecode("müsli".encode("latin-1"))
    source = folder_of(tmp_path / os.fsdecode(b"set\xff"), {latin: 2, "cat": 1})
    packed(source, tmp_path / "out")
    images = opened(tmp_path / "out")
    assert sorted(images.classes) == ["cat", latin]
    assert contents_by_class(images) == contents_by_class(opened(source))


def test_a_full_disk_is_one_message_and_leaves_whole_shards(
    tmp_path: Path, small_shards: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 20})
    add = pack_module._add
    added = 0

    def full(tar: tarfile.TarFile, name: str, content: bytes) -> None:
        nonlocal added
        added += 1
        if added > 30:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(tar, name, content)

    monkeypatch.setattr(pack_module, "_add", full)
    with pytest.raises(InvalidInput, match=r"shard-\d+.tar cannot be written.*run the same"):
        packed(source, tmp_path / "out", small_shards)
    names = sorted(bytes_in(tmp_path / "out"))
    assert names[0] == "pack.json"
    assert len(names) > 1
    assert all(name.endswith(".tar") for name in names[1:])


def test_two_runs_do_not_write_into_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of(tmp_path / "set", {"cat": 2})
    write = Folder.write

    def beside_another(folder: Folder, name: str, content: bytes = b"") -> None:
        with pytest.raises(InvalidInput, match="another process packs"):
            packed(source, tmp_path / "out")
        write(folder, name, content)

    monkeypatch.setattr(Folder, "write", beside_another)
    packed(source, tmp_path / "out")


@pytest.mark.parametrize(
    "manifest", [b"{", b"[]", b'{"classes": 5}', b'{"classes": ["cat"]}', b'{"classes": [1, 2]}']
)
def test_a_manifest_of_another_kind_is_ignored(tmp_path: Path, manifest: bytes) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "dog": 4})
    packed(source, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_bytes(manifest)
    assert list(opened(tmp_path / "out").classes) == ["0", "1"]


def test_a_user_packs_and_a_second_run_keeps_all(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "set", {"cat": 3, "dog": 4})
    vicreg = shutil.which("vicreg", path=str(Path(sys.executable).parent))
    assert vicreg is not None
    command = [vicreg, "data", "pack", str(source), str(tmp_path / "out")]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "7 images of image_folder in 1 shards; 0 left out" in first.stdout
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 of them from before" in second.stdout
    command += ["--short-side", "16"]
    other = subprocess.run(command, capture_output=True, text=True, check=False)
    assert other.returncode == 1
    assert other.stderr.count("\n") == 1
    assert other.stderr.startswith("error: ")
