"""Which files of a folder count as images."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from vicreg_platform.data_root import holds_image
from vicreg_platform.specs.image_files import image_files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def failing(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Have the system answer an error when it is asked what is in a folder."""
    scandir = os.scandir

    def ask(path: str | Path) -> Any:
        if str(path) == str(folder):
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", ask)


def found(root: Path) -> list[str]:
    return sorted(os.path.relpath(path, root) for path in image_files(str(root)))


def test_hidden_files_and_those_of_a_mac_do_not_count(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg", "._a.jpg", ".b.png", "__MACOSX/a.jpg", ".git/c.png", "deep/d.TIFF", "e")
    assert found(tmp_path) == ["a.jpg", "deep/d.TIFF"]


def test_a_folder_of_hidden_files_holds_no_image(tmp_path: Path) -> None:
    make(tmp_path, "class/._a.jpg", "__MACOSX/class/a.jpg", ".cache/a.jpg")
    assert not holds_image(tmp_path, in_classes=True)
    make(tmp_path, "class/a.jpg")
    assert holds_image(tmp_path, in_classes=True)


def test_a_loop_of_links_is_followed_once(tmp_path: Path) -> None:
    make(tmp_path, "class/a.jpg")
    (tmp_path / "class/again").symlink_to(tmp_path / "class")
    (tmp_path / "class/up").symlink_to(tmp_path)
    (tmp_path / "class/itself").symlink_to(tmp_path / "class/itself")
    # Through `up`, the folder is reached once more, by another path, and left there.
    assert found(tmp_path / "class") == ["a.jpg"]
    assert holds_image(tmp_path, in_classes=True)


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/a.jpg", "class/b.jpg")
    (tmp_path / "class/more").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "class") == ["b.jpg", "more/a.jpg"]


def test_folders_that_all_link_to_each_other_are_looked_into_once(tmp_path: Path) -> None:
    """Their walks are as many as the orders of 12 folders: 479 million."""
    folders = [tmp_path / f"class-{number:02d}" for number in range(12)]
    for folder in folders:
        folder.mkdir()
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    assert not holds_image(tmp_path, in_classes=True)
    assert not holds_image(tmp_path, in_classes=False)
    make(folders[-1], "deep/a.jpg")
    assert holds_image(tmp_path, in_classes=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_folder_that_cannot_be_read_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    make(tmp_path, "class/a.jpg", "class/deep/b.jpg")
    failing(monkeypatch, tmp_path / "class/deep", number)
    with pytest.raises(OSError, match="deep") as caught:
        found(tmp_path)
    assert caught.value.errno == number
    assert holds_image(tmp_path, in_classes=True)


def test_a_folder_that_is_removed_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "class/a.jpg", "class/deep/b.jpg")
    failing(monkeypatch, tmp_path / "class/deep", errno.ENOENT)
    assert found(tmp_path) == ["class/a.jpg"]
