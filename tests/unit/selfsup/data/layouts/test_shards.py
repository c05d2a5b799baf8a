"""Tar shards on a disk: any image at once, and faults named in one line."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.selfsup.data.test_decoding import encoded, photograph
from tests.unit.selfsup.data.test_sources import batches_of, under
from vicreg_platform.specs import WebDatasetData
from vicreg_workers.selfsup.data.images import Images, unreadable
from vicreg_workers.selfsup.data.layouts import shards as shards_module
from vicreg_workers.selfsup.data.layouts.shard_index import ShardIndex
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.storage import Folder

JPEG = [encoded(photograph(40, 30, seed)) for seed in range(12)]


def write(shard: Path, members: dict[str, bytes]) -> None:
    shard.parent.mkdir(exist_ok=True)
    with tarfile.open(shard, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def make(root: Path, shards: int = 3, images: int = 4) -> None:
    """Shards whose image n has class n % 3."""
    for shard in range(shards):
        members = {}
        for number in range(shard * images, (shard + 1) * images):
            members[f"{number:04d}.jpg"] = JPEG[number]
            members[f"{number:04d}.cls"] = str(number % 3).encode()
        write(root / "set" / f"train-{shard:03d}.tar", members)


def open_set(
    root: Path, shards: str = "set/train-{000..002}.tar", keep: Folder | None = None
) -> Images:
    return open_images(WebDatasetData(source="webdataset", shards=shards), under(root), keep)


@pytest.mark.parametrize("pattern", ["set", "set/train-{000..002}.tar"])
@pytest.mark.parametrize("loaders", [0, 2])
def test_images_and_labels_are_those_of_the_shards(
    tmp_path: Path, pattern: str, loaders: int
) -> None:
    make(tmp_path)
    spec = WebDatasetData(source="webdataset", shards=pattern)
    images = open_images(spec, under(tmp_path), loaders=loaders)
    assert list(images.labels) == [number % 3 for number in range(12)]
    assert images.classes == ["0", "1", "2"]
    assert images.name(5).endswith("train-001.tar: 0005")
    for number in range(12):
        with_pillow = photograph(40, 30, number)
        assert images.read(number).size == with_pillow.size
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]


def test_training_on_shards_is_training_on_their_images(tmp_path: Path) -> None:
    """The order is global, and the same in this process and in loaders."""
    make(tmp_path)
    alone = list(batches_of(open_set(tmp_path)).epoch(1))
    loaded = list(batches_of(open_set(tmp_path), loaders=2).epoch(1))
    assert sorted(index for batch in alone for index in batch.indices) == list(range(12))
    for ours, theirs in zip(alone, loaded, strict=True):
        assert ours.indices == theirs.indices
        assert torch.equal(ours.views[1], theirs.views[1])


def test_labels_of_json_and_folders_within_shards(tmp_path: Path) -> None:
    members = {
        "a/one.two.jpeg": JPEG[0],  # its key is a/one: all after the first dot is the kind
        "a/x.JPG": JPEG[1],
        "a/x.json": b'{"label": 4, "caption": "a cat"}',
        "b/x.jpg": JPEG[2],
        "b/x.json": b'{"cls": "2"}',
        "b/x.txt": b"a dog",
    }
    write(tmp_path / "set" / "0.tar", members)
    images = open_set(tmp_path, "set")
    assert [images.name(n).rpartition(": ")[2] for n in range(len(images))] == ["a/x", "b/x"]
    assert list(images.labels) == [4, 2]
    assert len(images.classes) == 5


def test_no_labels_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "set" / "0.tar", {"a.jpg": JPEG[0], "b.png": encoded(photograph(), "PNG")})
    assert (len(open_set(tmp_path, "set")), open_set(tmp_path, "set").classes) == (2, [])
    assert caplog.records == []
    write(tmp_path / "set" / "1.tar", {"c.jpg": JPEG[1], "c.cls": b"3"})
    assert open_set(tmp_path, "set").classes == []
    assert "2 of the 3 images in set have no label, such as a" in caplog.text


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ({"a.jpg": JPEG[0], "a.cls": b"cat"}, "the label of a is left out: invalid literal"),
        ({"a.jpg": JPEG[0], "a.cls": b"9999999"}, "9999999 is not the number of a class"),
        ({"a.jpg": JPEG[0], "a.json": b"[1]"}, "its JSON is not an object"),
        ({"a.jpg": JPEG[0], "b.cls": b"1"}, "1 keys have a label and no image, such as b"),
    ],
)
def test_what_is_wrong_with_a_member_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: dict[str, bytes], text: str
) -> None:
    write(tmp_path / "set" / "0.tar", broken)
    assert len(open_set(tmp_path, "set")) == 1
    assert text in caplog.text
    assert "0.tar" in caplog.text


def test_names_in_any_encoding(tmp_path: Path) -> None:
    write(tmp_path / "set" / "0.tar", {})
    with tarfile.open(tmp_path / "set" / "0.tar", "w", encoding="latin-1") as tar:
        member = tarfile.TarInfo("Großmutter.jpg")
        member.size = len(JPEG[0])
        tar.addfile(member, io.BytesIO(JPEG[0]))
    images = open_set(tmp_path, "set")
    assert "Gro" in images.name(0)
    assert images.read(0).size == (40, 30)


def test_a_shard_that_is_cut_off_gives_what_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path)
    shard = tmp_path / "set" / "train-001.tar"
    content = shard.read_bytes()
    place = content.index(JPEG[6]) + 100  # in the middle of its third image
    shard.write_bytes(content[:place])
    images = open_set(tmp_path)
    assert len(images) == 4 + 2 + 4
    assert "train-001.tar is damaged or cut off: only the 2 images before" in caplog.text
    assert all(images.read(number) for number in range(10))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("train-001.tar", None, r"train-001\.tar' does not exist"),
        ("train-001.tar", b"no tar file" * 100, r"train-001\.tar cannot be read: it is not a tar"),
        ("train-001.tar", b"", "it is not a tar file: empty file"),
    ],
)
def test_a_shard_that_is_none(tmp_path: Path, name: str, content: bytes | None, text: str) -> None:
    make(tmp_path)
    (tmp_path / "set" / name).unlink()
    if content is not None:
        (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=text):
        open_set(tmp_path)


@pytest.mark.parametrize("pattern", ["set", "set/{000..001}.jpg"])
def test_a_set_without_shards_is_refused(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(InvalidInput, match=r"data\.shards"):
        open_set(tmp_path, pattern)


@pytest.mark.parametrize("how", ["replaced", "gone", "cut off", "overwritten"])
def test_a_shard_that_changes_during_training_loses_its_images_alone(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    shard = tmp_path / "set" / "train-001.tar"
    os.utime(shard, (0, 0))  # written long ago
    images = open_set(tmp_path)
    if how == "cut off":
        images.read(4)  # it is open
        os.truncate(shard, 100)
    elif how == "overwritten":
        images.read(4)
        shard.write_bytes((tmp_path / "set" / "train-002.tar").read_bytes())
    else:
        shard.unlink()
        if how == "replaced":
            write(shard, {"other.jpg": JPEG[0]})
    (first, second, third) = batches_of(images).epoch(0)
    skipped = {index for batch in (first, second, third) for index in batch.skipped}
    assert skipped == {4, 5, 6, 7}
    assert {index for batch in (first, second, third) for index in batch.indices} == {
        0, 1, 2, 3, 8, 9, 10, 11
    }  # fmt: skip
    (warning,) = unreadable(images, sorted(skipped))
    assert warning.startswith("left out 4 images that cannot be read, such as")
    assert "train-001.tar" in warning


def test_an_index_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    keep = Folder.of_job(str(tmp_path / "storage"), "indexes")
    before = open_set(tmp_path, keep=keep)
    (name,) = keep.names()
    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "make_index", None)  # not called
        again = open_set(tmp_path, keep=keep)
    assert [again.name(n) for n in range(12)] == [before.name(n) for n in range(12)]
    assert list(again.labels) == list(before.labels)
    # A shard that has changed since is listed again, and so is all after damage.
    write(tmp_path / "set" / "train-002.tar", {"new.jpg": JPEG[0], "new.cls": b"0"})
    assert len(open_set(tmp_path, keep=keep)) == 9
    keep.write(name, b"damaged")
    assert len(open_set(tmp_path, keep=keep)) == 9
    assert ShardIndex.from_bytes(keep.read(name)).keys[8] == "new"


def test_what_is_wrong_with_a_shard_is_said_by_each_job(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    shard = tmp_path / "set" / "train-001.tar"
    os.truncate(shard, shard.read_bytes().index(JPEG[6]) + 100)
    keep = Folder.of_job(str(tmp_path / "storage"), "indexes")
    assert len(open_set(tmp_path, keep=keep)) == 10
    first = caplog.messages
    assert any("train-001.tar is damaged or cut off: only the 2 images" in each for each in first)
    caplog.clear()
    monkeypatch.setattr(shards_module, "make_index", None)  # not called
    assert len(open_set(tmp_path, keep=keep)) == 10
    assert caplog.messages == first


def test_an_index_that_an_earlier_version_has_kept_is_read(tmp_path: Path) -> None:
    make(tmp_path)
    keep = Folder.of_job(str(tmp_path / "storage"), "indexes")
    open_set(tmp_path, keep=keep)
    (name,) = keep.names()
    with np.load(io.BytesIO(keep.read(name))) as file:
        earlier = {part: file[part] for part in file if part != "problems"}
    content = io.BytesIO()
    np.savez(content, **earlier)
    index = ShardIndex.from_bytes(content.getvalue())
    assert (index.keys[8], list(index.problems)) == ("0008", [])


def test_a_storage_that_is_full_costs_the_index_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path)

    class Full:
        def read(self, name: str) -> bytes:
            raise FileNotFoundError(name)

        def write(self, name: str, content: bytes = b"") -> None:
            raise OSError(28, "No space left on device")

    spec = WebDatasetData(source="webdataset", shards="set")
    assert len(open_images(spec, under(tmp_path), Full())) == 12
    assert "is not kept: [Errno 28]" in caplog.text
    assert [r for r in caplog.records if r.levelno > logging.WARNING] == []


def test_a_lost_shard_of_hundreds_of_images_does_not_end_the_training(tmp_path: Path) -> None:
    for shard in range(3):
        write(
            tmp_path / "set" / f"{shard}.tar",
            {f"{number:04d}.jpg": JPEG[number % 12] for number in range(300)},
        )
    images = open_set(tmp_path, "set")
    (tmp_path / "set" / "1.tar").unlink()
    skipped: set[int] = set()
    for batch in batches_of(images, 100, loaders=2).epoch(0):
        skipped.update(batch.skipped)
        assert len(batch.indices) == 100
    assert skipped == set(range(300, 600))


def test_a_shard_that_is_none_is_said_in_one_line_by_loaders_too(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "set" / "train-001.tar").write_bytes(b"no tar file" * 100)
    spec = WebDatasetData(source="webdataset", shards="set")
    with pytest.raises(InvalidInput) as caught:
        open_images(spec, under(tmp_path), loaders=2)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("data.shards: ")


def test_labels_that_no_number_holds_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nested = b"[" * 100_000
    write(
        tmp_path / "set" / "0.tar",
        {"a.jpg": JPEG[0], "a.json": b'{"cls": Infinity}', "b.jpg": JPEG[1], "b.json": nested},
    )
    assert len(open_set(tmp_path, "set")) == 2
    assert caplog.text.count("is left out") == 2
