"""Classes are told by their names, not by their place in a folder."""

from pathlib import Path

import pytest
from PIL import Image

from vicreg_platform.specs import ImageFolderData
from vicreg_workers.evaluate import _classes_in_train
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.images import Images, open_images


def folder(root: Path, name: str, *classes: str) -> Images:
    for each in classes:
        (root / name / each).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / each / "0.png")
    (root / name / ".ipynb_checkpoints").mkdir()
    return open_images(ImageFolderData(source="image_folder", path=name), root)


def test_a_class_that_the_test_set_lacks_shifts_no_label(tmp_path: Path) -> None:
    train = folder(tmp_path, "train", "cat", "dog", "emu")
    test = folder(tmp_path, "test", "dog", "emu")
    assert _classes_in_train(train, test).tolist() == [1, 2]


def test_a_class_that_the_training_set_lacks_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserFailure, match="emu"):
        _classes_in_train(folder(tmp_path, "train", "cat"), folder(tmp_path, "test", "emu"))
