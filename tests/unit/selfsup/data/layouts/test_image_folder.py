"""A folder of images: with classes or without, nested, linked, and with the faults of real ones."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.selfsup.data.test_sources import batches_of, under
from tests.unit.specs.test_image_files import failing
from vicreg_platform.specs import ImageFolderData
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.layouts.keep import Keep
from vicreg_workers.selfsup.data.layouts.names import Names
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.storage import Folder


def make(root: Path, *files: str | bytes) -> None:
    for number, file in enumerate(files):
        path = os.path.join(os.fsencode(root), os.fsencode(file))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as opened:
            Image.new("RGB", (8 + number % 2, 8), (number, 0, 0)).save(opened, "PNG")


def open_set(root: Path, classes: str = "auto", own: Keep | None = None) -> Images:
    spec = ImageFolderData.model_validate(
        {"source": "image_folder", "path": "set", "classes": classes}
    )
    return open_images(spec, under(root), own=own)


def names(root: Path, images: Images) -> list[str]:
    return [os.path.relpath(images.name(number), root / "set") for number in range(len(images))]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    make(tmp_path / "set", "b.png", "a.png", ".hidden.png", "notes.txt.png", "c.jpg", "d.txt")
    images = open_set(tmp_path)
    assert names(tmp_path, images) == ["a.png", "b.png", "c.jpg", "notes.txt.png"]
    assert (images.classes, list(images.labels)) == ([], [0, 0, 0, 0])
    assert len(next(batches_of(images).epoch(0)).indices) == 4


def test_sub_folders_are_classes_unless_they_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "set", "cat/a.png", "cat/deep/b.png", "dog/c.png", "loose.png", "empty/x.txt")
    images = open_set(tmp_path)
    assert names(tmp_path, images) == ["cat/a.png", "cat/deep/b.png", "dog/c.png"]
    assert images.classes == ["cat", "dog", "empty"]
    assert list(images.labels) == [0, 0, 1]
    assert "1 images lie beside the class folders of" in caplog.text
    assert "such as loose.png" in caplog.text
    everything = open_set(tmp_path, "none")
    assert len(everything) == 4
    assert everything.classes == []


def test_folders_are_asked_for_and_not_there(tmp_path: Path) -> None:
    make(tmp_path / "set", "a.png")
    with pytest.raises(InvalidInput, match="one sub-folder per class"):
        open_set(tmp_path, "folders")


def test_classes_that_differ_in_case_alone_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "set", "Cat/a.png", "cat/b.png")
    assert open_set(tmp_path).classes == ["Cat", "cat"]
    assert "has the classes Cat and cat, whose names differ only in case" in caplog.text


def test_links_stay_inside_the_data_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(root / "set", "cat/a.png")
    make(root / "elsewhere", "b.png")
    make(tmp_path / "outside", "c.png")
    (root / "set" / "dog").symlink_to(root / "elsewhere")
    (root / "set" / "cat" / "linked.png").symlink_to(root / "elsewhere" / "b.png")
    assert names(root, open_set(root)) == ["cat/a.png", "cat/linked.png", "dog/b.png"]
    for link in ("emu", "cat/more", "cat/out.png"):
        target = tmp_path / "outside" / ("c.png" if link.endswith("png") else "")
        (root / "set" / link).symlink_to(target)
        with pytest.raises(InvalidInput, match=f"the link .*/set/{link}.*outside the data root"):
            open_set(root)
        (root / "set" / link).unlink()


def test_folders_that_all_link_to_each_other_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "set" / f"f{number:02d}" for number in range(12)]
    for folder in folders:
        make(folder, "a.png")
    for folder in folders:
        for other in folders:
            (folder / other.name).symlink_to(other)  # 12! paths and more
    with pytest.raises(InvalidInput, match=r"links lead to .* by more than 100 paths"):
        open_set(tmp_path)


@pytest.mark.parametrize("folder", ["", "cat", "cat/deep"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, number: int
) -> None:
    """One worker that saw fewer images than others would train on other batches."""
    make(tmp_path / "set", "cat/a.png", "cat/deep/b.png", "dog/c.png")
    failing(monkeypatch, tmp_path / "set" / folder, number)
    text = rf"^data\.path: .*/{(Path('set') / folder).as_posix()} cannot be read \("
    with pytest.raises(InvalidInput, match=text) as caught:
        open_set(tmp_path)
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_to_itself_is_no_class(tmp_path: Path) -> None:
    make(tmp_path / "set", "cat/a.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "set" / "dog")
    assert open_set(tmp_path).classes == ["cat"]


def open_labelled(root: Path, *rows: str) -> Images:
    (root / "labels.csv").write_text("\n".join(["image,red", *rows]))
    spec = ImageFolderData(source="image_folder", path="set", labels="labels.csv")
    return open_images(spec, under(root))


def test_images_that_a_table_has_no_labels_for_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "set", "a.png", "b.png", "deep/c.png", "d.png")
    (tmp_path / "set" / "link.png").symlink_to("d.png")
    every = [f"{tmp_path}/set/a.png,1", "./b.png,0", " deep/c.png ,1", "link.png,0"]
    assert len(open_labelled(tmp_path, *every)) == 4
    # What a link leads to is an image of the folder as well, and has its labels.
    assert caplog.records == []
    assert len(open_labelled(tmp_path, *every[:2])) == 2
    (warning,) = caplog.messages
    assert warning.startswith(f"data: 3 of the 5 images in {tmp_path}/set are left out, such as d.")
    assert warning.endswith("labels.csv has labels for 2 images alone")


def test_an_image_that_a_table_names_twice_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "set", "a.png", "b.png")
    with pytest.raises(InvalidInput, match=r"labels\.csv names .*/set/a\.png twice"):
        open_labelled(tmp_path, "a.png,1", "b.png,0", "./a.png,0")


def test_a_job_reads_the_images_that_it_found_first(tmp_path: Path) -> None:
    make(tmp_path / "set", "cat/a.png", b"caf\xe9/b.png", "cat/c.png")
    own = Folder.of_job(str(tmp_path / "storage"), "job")
    first = open_set(tmp_path, own=own)
    make(tmp_path / "set", "cat/0.png", "dog/d.png")
    again = open_set(tmp_path, own=own)
    assert again.classes == first.classes == [os.fsdecode(b"caf\xe9"), "cat"]
    assert list(again.labels) == list(first.labels) == [0, 1, 1]
    assert names(tmp_path, again) == names(tmp_path, first)
    assert again.read(2).size == (8, 8)
    # Read in another way they are another set; and another job finds what is there now.
    assert len(open_set(tmp_path, "none", own)) == 5
    assert len(open_set(tmp_path, own=Folder.of_job(str(tmp_path / "storage"), "other"))) == 5


def test_images_that_are_gone_since_fail_the_next_attempt(tmp_path: Path) -> None:
    make(tmp_path / "set", "cat/1.png", "cat/2.png", "dog/3.png")
    own = Folder.of_job(str(tmp_path / "storage"), "job")
    open_set(tmp_path, own=own)
    (tmp_path / "set/cat/2.png").rename(tmp_path / "set/dog/2.png")  # another label
    with pytest.raises(InvalidInput, match=r"1 of the 3 images .* no longer in .*, such as cat/2"):
        open_set(tmp_path, own=own)
    (tmp_path / "set/dog/2.png").rename(tmp_path / "set/cat/2.png")
    assert len(open_set(tmp_path, own=own)) == 3


def test_a_damaged_list_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path / "set", "a.png", "b.png")
    own = Folder.of_job(str(tmp_path / "storage"), "job")
    open_set(tmp_path, own=own)
    (kept,) = (tmp_path / "storage" / "job").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert names(tmp_path, open_set(tmp_path, own=own)) == ["a.png", "b.png"]
    assert f"{kept.name} is not used: not a list of images" in caplog.text


def test_names_in_any_encoding(tmp_path: Path) -> None:
    make(tmp_path / "set", b"caf\xe9.png", "日本.png", "a\nb.png")
    images = open_set(tmp_path)
    assert len(images) == 3
    assert all(images.read(number).width in (8, 9) for number in range(3))


def test_many_names_take_few_bytes() -> None:
    many = Names(f"n{number % 1000:04d}/image_{number:08d}.JPEG" for number in range(100_000))
    assert many[99_999] == "n0999/image_00099999.JPEG"
    assert list(many)[:2] == ["n0000/image_00000000.JPEG", "n0001/image_00000001.JPEG"]
    # 25 letters, and 8 bytes for where they end.
    assert many.content.nbytes + many.ends.nbytes == 100_000 * (25 + 8)
