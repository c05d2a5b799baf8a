"""Each protocol measures an encoder on the given images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.selfsup.data.test_sources import under
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.specs import EvaluateSpec, ImageFolderData, parse_spec
from vicreg_workers.evaluate.driver import measure
from vicreg_workers.evaluate.evaluation import classes_in_train
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.data.sources import Images, open_images
from vicreg_workers.selfsup.errors import InvalidInput


def folder(root: Path, name: str, *classes: str) -> Images:
    for each in classes:
        (root / name / each).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / each / "0.png")
    (root / name / ".ipynb_checkpoints").mkdir()
    return open_images(ImageFolderData(source="image_folder", path=name), under(root))


def test_a_class_missing_from_the_test_set_shifts_no_label(tmp_path: Path) -> None:
    train = folder(tmp_path, "train", "cat", "dog", "emu")
    test = folder(tmp_path, "test", "dog", "emu")
    assert classes_in_train(train, test).tolist() == [1, 2]


def test_a_class_missing_from_the_training_set_is_a_user_failure(tmp_path: Path) -> None:
    with pytest.raises(UserFailure, match="emu"):
        classes_in_train(folder(tmp_path, "train", "cat"), folder(tmp_path, "test", "emu"))


class Log:
    """Records what an evaluation sends to its run."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.last: Progress | None = None
        self.moments: list[str] = []

    def reached(self, moment: str) -> None:
        self.moments.append(moment)

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def file(self, path: str, content: bytes) -> None:
        self.files[path] = content


def measured(
    protocol: dict[str, Any], train: dict[str, Any], test: dict[str, Any], root: Path, log: Log
) -> dict[str, float]:
    spec = parse_spec(
        {
            "kind": "evaluate",
            "encoder": {"untrained": {"name": "resnet10", "stem": "cifar"}},
            "protocol": protocol,
            "data": {"train": train, "test": test},
        }
    )
    assert isinstance(spec, EvaluateSpec)
    assignment = Assignment(
        job_id="job",
        attempt=1,
        spec=spec,
        run_id="run",
        tracking_uri="",
        storage=str(root),
        data_root=str(root),
    )
    return measure(assignment, spec, log, torch.device("cpu"))  # type: ignore[arg-type]


def digits(share: float, split: str = "train") -> dict[str, Any]:
    return {"source": "digits", "split": split, "image_size": 12, "share": share}


def on_digits(protocol: dict[str, Any], root: Path, log: Log | None = None) -> dict[str, float]:
    return measured(protocol, digits(0.2), digits(0.3, "test"), root, log or Log())


def test_fine_tuning_trains_encoder_and_classifier(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, channel in (("red", 0), ("blue", 2)):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 100, (8, 8, 3), dtype=np.uint8)
                pixels[:, :, channel] += 100
                Image.fromarray(pixels).save(tmp_path / split / label / f"{index}.png")
    train, test = (
        {"source": "image_folder", "path": split, "image_size": 8} for split in ("train", "test")
    )
    log = Log()
    finetune = {"name": "finetune", "epochs": 6, "batch_size": 16}
    metrics = measured(finetune, train, test, tmp_path, log)
    assert metrics["finetune/top1"] == metrics["finetune/top5"] == 1.0
    assert log.last is not None
    assert log.last.step == log.last.steps


def test_the_augmented_probe_is_near_the_cached_one(tmp_path: Path) -> None:
    log = Log()
    linear = {"name": "linear", "epochs": 6, "batch_size": 32, "learning_rates": [0.03, 0.1]}
    cached = on_digits(linear, tmp_path)
    augmented = on_digits(linear | {"augment": True}, tmp_path, log)
    assert augmented["linear/top1"] != cached["linear/top1"]
    assert augmented["linear/top1"] > 0.3  # chance: 0.1
    assert set(augmented) == set(cached)


def test_features_are_exported_with_their_labels(tmp_path: Path) -> None:
    log = Log()
    assert on_digits({"name": "features"}, tmp_path, log) == {"data/corrupt_images": 0.0}
    arrays = np.load(io.BytesIO(log.files["features.npz"]))
    assert arrays["train"].shape == (len(arrays["train_labels"]), 512)
    assert arrays["test"].dtype == np.float32
    assert set(arrays["test_labels"].tolist()) == set(range(10))
    assert arrays["classes"].tolist() == [str(digit) for digit in range(10)]


def several(root: Path, count: int) -> dict[str, Any]:
    """Images that are red, blue, both or neither, labelled by a table as in VOC."""
    lines = ["image,red,blue"]
    (root / "images").mkdir(exist_ok=True)
    for index in range(count):
        red, blue = index % 2, index // 2 % 2
        Image.new("RGB", (8, 8), (200 * red, index, 200 * blue)).save(
            root / "images" / f"{index}.png"
        )
        lines.append(f"{index}.png,{red},{blue if index % 5 else ''}")
    (root / "labels.csv").write_text("\n".join(lines))
    return {
        "source": "image_folder",
        "path": "images",
        "labels": "labels.csv",
        "image_size": 8,
    }


def test_several_labels_are_measured_by_mean_average_precision(tmp_path: Path) -> None:
    data = several(tmp_path, 60)
    linear = {"name": "linear", "epochs": 20, "batch_size": 8}
    metrics = measured(linear, data, data, tmp_path, Log())
    assert metrics["linear/map"] > 0.95
    assert "linear/top1" not in metrics
    with pytest.raises(UserFailure, match="needs one label"):
        measured({"name": "knn"}, data, data, tmp_path, Log())


def test_a_table_with_other_values_is_refused(tmp_path: Path) -> None:
    data = several(tmp_path, 4)
    (tmp_path / "labels.csv").write_text("image,red,blue\n0.png,1,0\n1.png,maybe,0\n")
    with pytest.raises(InvalidInput, match=r"line 3 of .*labels.csv must hold"):
        measured({"name": "linear"}, data, data, tmp_path, Log())


def test_a_share_is_taken_of_every_class_and_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for label, count in (("cat", 20), ("dog", 10), ("emu", 1)):
        folder(tmp_path, "set", label)
        for index in range(1, count):
            Image.new("RGB", (8, 8)).save(tmp_path / "set" / label / f"{index}.png")
        (tmp_path / "set" / ".ipynb_checkpoints").rmdir()

    def names(**changes: Any) -> list[str]:
        spec = ImageFolderData(source="image_folder", path="set", **changes)
        images = open_images(spec, under(tmp_path))
        return [images.name(index)[len(str(tmp_path)) + 5 :] for index in range(len(images))]

    chosen = names(share=0.3)
    assert [name[:3] for name in chosen] == ["cat"] * 6 + ["dog"] * 3 + ["emu"]
    assert chosen == names(share=0.3)
    assert chosen != names(share=0.3, share_seed=1)
    (tmp_path / "list.txt").write_text("dog/3.png\n./cat/3.png\n12.png\n")
    (tmp_path / "vague.txt").write_text("3.png\n")
    (tmp_path / "wrong.txt").write_text("nobody.png\n")
    assert names(names="list.txt") == ["dog/3.png", "cat/3.png", "cat/12.png"]
    with pytest.raises(InvalidInput, match=r"2 images are called 3.png: name the class's folder"):
        names(names="vague.txt")
    with pytest.raises(InvalidInput, match=r"names nobody.png and 0 more"):
        names(names="wrong.txt")
