"""Each protocol measures an encoder on the given images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.selfsup import drawn_objects
from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.drawn_shapes import save_ade20k, save_folders, save_voc
from tests.unit.selfsup.small_detector import shrink_detector
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.recipes import load_recipe
from vicreg_platform.specs import EvaluateSpec, ImageFolderData, parse_spec
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.evaluate.worker import measure
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.data.images import Images, classes_in_train
from vicreg_workers.selfsup.data.sources import open_images
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
    with pytest.raises(InvalidInput, match="emu"):
        classes_in_train(folder(tmp_path, "train", "cat"), folder(tmp_path, "test", "emu"))


class Log:
    """Records what an evaluation sends to its run."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.progresses: list[Progress] = []
        self.moments: list[str] = []

    def reached(self, moment: str) -> None:
        self.moments.append(moment)

    def progress(self, progress: Progress) -> None:
        self.progresses.append(progress)

    @property
    def last(self) -> Progress | None:
        return self.progresses[-1] if self.progresses else None

    def file(self, path: str, content: bytes | Path) -> None:
        self.files[path] = content if isinstance(content, bytes) else content.read_bytes()


def measured(
    protocol: dict[str, Any],
    train: dict[str, Any],
    test: dict[str, Any],
    root: Path,
    log: Log,
    **fields: Any,
) -> dict[str, float]:
    spec = parse_spec(
        {
            "kind": "evaluate",
            "encoder": {"untrained": {"name": "resnet10", "stem": "cifar"}},
            "protocol": protocol,
            "data": {"train": train, "test": test},
        }
        | fields
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
    evaluation = Evaluation(assignment, spec, log, torch.device("cpu"))  # type: ignore[arg-type]
    return measure(evaluation, spec)


def digits(share: float, split: str = "train") -> dict[str, Any]:
    return {"source": "digits", "split": split, "image_size": 12, "share": share}


def on_digits(protocol: dict[str, Any], root: Path, log: Log | None = None) -> dict[str, float]:
    return measured(protocol, digits(0.2), digits(0.3, "test"), root, log or Log())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fine_tuning_trains_encoder_and_classifier(tmp_path: Path, precision: str) -> None:
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
    metrics = measured(finetune, train, test, tmp_path, log, precision=precision)
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


def test_in_bf16_representations_are_near_those_in_float32(tmp_path: Path) -> None:
    exact, rounded = Log(), Log()
    for log, precision in ((exact, "fp32"), (rounded, "bf16")):
        data = digits(0.2), digits(0.3, "test")
        measured({"name": "features"}, *data, tmp_path, log, precision=precision)
    arrays = [np.load(io.BytesIO(log.files["features.npz"]))["test"] for log in (exact, rounded)]
    assert arrays[0].dtype == arrays[1].dtype == np.float32
    error = np.linalg.norm(arrays[1] - arrays[0]) / np.linalg.norm(arrays[0])
    assert 1e-4 < error < 0.05  # bf16 has 8 bits


@pytest.mark.parametrize("augment", [False, True])
def test_a_probe_of_an_encoder_in_bf16_learns(tmp_path: Path, augment: bool) -> None:
    linear = {"name": "linear", "epochs": 3, "batch_size": 32, "learning_rates": [0.1]}
    data = digits(0.2), digits(0.3, "test")
    metrics = measured(linear | {"augment": augment}, *data, tmp_path, Log(), precision="bf16")
    assert metrics["linear/top1"] > 0.3  # chance: 0.1


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


def test_images_without_labels_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "0.png")
    flat = {"source": "image_folder", "path": "flat", "image_size": 8}
    for protocol in ("knn", "linear", "finetune"):
        with pytest.raises(UserFailure, match=r"^data\.train: its images have no labels"):
            measured({"name": protocol}, flat, flat, tmp_path, Log())
    log = Log()
    measured({"name": "features"}, flat, flat, tmp_path, log)
    arrays = np.load(io.BytesIO(log.files["features.npz"]))
    assert arrays["train_labels"].tolist() == arrays["test_labels"].tolist() == [-1]


def test_svms_and_retrieval_on_digits(tmp_path: Path) -> None:
    """An untrained network already tells digits apart, far above chance."""
    svm = on_digits({"name": "svm", "costs": [1.0, 10.0]}, tmp_path)
    assert set(svm) == {"svm/map", "svm/top1", "svm/top5", "data/corrupt_images"}
    assert svm["svm/map"] > 0.5
    assert svm["svm/top1"] > 0.5  # chance: 0.1
    few = on_digits({"name": "few_shot", "shots": [1, 8]}, tmp_path)
    assert set(few) - {"data/corrupt_images"} == {
        f"few_shot/{shots}/{score}" for shots in (1, 8) for score in ("top1", "top1_std")
    }
    assert 0.2 < few["few_shot/1/top1"] < few["few_shot/8/top1"]
    found = on_digits({"name": "retrieval"}, tmp_path)
    assert found["retrieval/recall_at_1"] > 0.5
    assert found["retrieval/map"] > 0.15
    assert found["retrieval/recall_at_1"] <= found["retrieval/recall_at_5"]


def test_svms_of_several_labels_are_measured_by_mean_average_precision(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        (tmp_path / split).mkdir()
        lines = ["image,red,blue"]
        for index in range(count):
            red, blue = index % 2, (index // 2) % 2
            pixels = noise.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, 0] += 100 * red
            pixels[:, :, 2] += 100 * blue
            Image.fromarray(pixels).save(tmp_path / split / f"{index}.png")
            lines.append(f"{index}.png,{red},{blue}")
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    train, test = (
        {"source": "image_folder", "path": split, "labels": f"{split}.csv", "image_size": 8}
        for split in ("train", "test")
    )
    metrics = measured({"name": "svm", "costs": [1.0, 10.0]}, train, test, tmp_path, Log())
    assert metrics["svm/map"] > 0.95
    assert "svm/top1" not in metrics
    for name in ("red", "blue"):
        (tmp_path / "one" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "one" / name / "0.png")
    one = {"source": "image_folder", "path": "one", "image_size": 8}
    with pytest.raises(UserFailure, match="give both or neither"):
        measured({"name": "svm"}, train, one, tmp_path, Log())


@pytest.mark.parametrize("protocol", [{}, {"frozen": False}])
def test_segmentation_stores_its_metrics_and_a_figure(
    tmp_path: Path, protocol: dict[str, Any]
) -> None:
    save_folders(tmp_path / "train", 8, 0)
    save_folders(tmp_path / "test", 4, 1)
    (tmp_path / "train/masks/5.png").write_bytes(b"")
    train, test = (
        {"source": "segmentation_folder", "layout": "folders", "path": split, "image_size": 32}
        for split in ("train", "test")
    )
    log = Log()
    few = {"name": "segmentation", "epochs": 2, "batch_size": 4}
    metrics = measured(few | protocol, train, test, tmp_path, log)
    names = {"segmentation/miou", "segmentation/pixel_accuracy", "data/corrupt_images"}
    assert set(metrics) == names
    assert 0 < metrics["segmentation/miou"] <= metrics["segmentation/pixel_accuracy"] < 1
    assert metrics["data/corrupt_images"] == 1
    with Image.open(io.BytesIO(log.files["pictures/segmentation.png"])) as figure:
        assert figure.format == "PNG"
    assert log.last is not None
    assert log.last.step == log.last.steps == 2 * 8 + 4


@pytest.mark.parametrize("layout", ["voc", "ade20k"])
def test_the_segmentation_recipes_fit_their_layouts(tmp_path: Path, layout: str) -> None:
    """The recipe as it is shipped, but for its size, on a tiny copy of the data set."""
    recipe = load_recipe(f"segmentation-{layout}")
    if layout == "voc":
        save_voc(tmp_path / "VOCdevkit/VOC2012", trainaug=4, val=2)
    else:
        save_ade20k(tmp_path / "ADEChallengeData2016", training=4, validation=2)
    train, test = (recipe["data"][part] | {"image_size": 32} for part in ("train", "test"))
    protocol = recipe["protocol"] | {"epochs": 1, "batch_size": 2}
    metrics = measured(protocol, train, test, tmp_path, Log(), precision="bf16")
    assert metrics["data/corrupt_images"] == 0
    assert 0 <= metrics["segmentation/miou"] < 1


@pytest.mark.parametrize("images", ["places205", "inaturalist18"])
def test_the_linear_recipes_fit_their_layouts(tmp_path: Path, images: str) -> None:
    """The recipe as it is shipped, but for its size and epochs, on a tiny copy of the data set."""
    for split in ("train", "val"):
        for number, label in enumerate(("0001", "abbey")):
            (tmp_path / images / split / label).mkdir(parents=True)
            for index in range(4):
                image = Image.new("RGB", (20, 16), (200 * number, 0, index))
                image.save(tmp_path / images / split / label / f"{index}.jpg")
    recipe = load_recipe(f"linear-{images}")
    train, test = (recipe["data"][part] | {"image_size": 16} for part in ("train", "test"))
    protocol = recipe["protocol"] | {"epochs": 2}
    metrics = measured(protocol, train, test, tmp_path, Log(), precision=recipe["precision"])
    assert metrics["data/corrupt_images"] == 0
    assert 0 <= metrics["linear/top1"] <= metrics["linear/top5"] == 1


def test_several_seeds_have_a_mean_and_a_deviation(tmp_path: Path) -> None:
    def run(seed: int, seeds: int) -> dict[str, float]:
        linear = {"name": "finetune", "epochs": 1, "batch_size": 32, "seed": seed}
        return measured(linear, digits(0.1), digits(0.2, "test"), tmp_path, Log(), seeds=seeds)

    alone = [run(seed, 1)["finetune/top1"] for seed in (3, 4)]
    assert alone[0] != alone[1]
    both = run(3, 2)
    assert both["finetune/top1"] == pytest.approx(sum(alone) / 2)
    assert both["finetune/top1_std"] == pytest.approx(abs(alone[0] - alone[1]) / 2**0.5)
    assert "data/corrupt_images_std" not in both


def test_several_seeds_share_the_representations(tmp_path: Path) -> None:
    """They are the same: each image passes the frozen encoder once. Those left out count once."""
    folder(tmp_path, "set", "cat", "dog")
    (tmp_path / "set/cat/broken.png").write_bytes(b"")
    data = {"source": "image_folder", "path": "set", "image_size": 8}
    log = Log()
    few = {"name": "few_shot", "shots": [1], "draws": 1}
    metrics = measured(few, data, data, tmp_path, log, seeds=3)
    assert metrics["few_shot/1/top1_std"] == 0
    assert metrics["data/corrupt_images"] == 2
    assert [progress.step for progress in log.progresses] == [3, 6]


@pytest.fixture
def small_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_detector(monkeypatch, width=16, regions=8, proposals=(100, 20))


BOX_METRICS = {"detection/ap", "detection/ap50", "detection/ap75", "data/corrupt_images"}
MASK_METRICS = {"detection/mask_ap", "detection/mask_ap50", "detection/mask_ap75"}


@pytest.mark.usefixtures("small_detector")
def test_detection_stores_its_metrics_and_a_figure(tmp_path: Path) -> None:
    drawn_objects.save_voc(tmp_path / "set", size=32, train=5, test=3)
    (tmp_path / "set/JPEGImages/set_train_002.jpg").write_bytes(b"")
    train, test = (
        {"source": "detection_folder", "layout": "voc", "path": "set", "split": split}
        | {"image_size": 32}
        for split in ("train", "test")
    )
    log = Log()
    protocol = {"name": "detection", "epochs": 2, "batch_size": 2}
    metrics = measured(protocol, train, test, tmp_path, log)
    assert set(metrics) == BOX_METRICS
    assert 0 <= metrics["detection/ap"] <= metrics["detection/ap50"] <= 1
    assert metrics["data/corrupt_images"] == 1
    with Image.open(io.BytesIO(log.files["pictures/detection.png"])) as figure:
        assert figure.format == "PNG"
    assert log.last is not None
    assert log.last.step == log.last.steps == 2 * 5 + 3


@pytest.mark.usefixtures("small_detector")
def test_an_object_of_an_unknown_class_ends_the_evaluation(tmp_path: Path) -> None:
    drawn_objects.save_voc(tmp_path / "set", size=32, train=4, test=2)
    note = tmp_path / "set/Annotations/set_test_001.xml"
    note.write_text(note.read_text().replace("disc", "cat").replace("square", "cat"))
    train, test = (
        {"source": "detection_folder", "layout": "voc", "path": "set", "split": split}
        | {"image_size": 32}
        for split in ("train", "test")
    )
    with pytest.raises(InvalidInput, match="objects of the class cat"):
        measured({"name": "detection"}, train, test, tmp_path, Log())


@pytest.mark.usefixtures("small_detector")
@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_the_detection_recipes_fit_their_layouts(tmp_path: Path, layout: str) -> None:
    """The recipe as it is shipped, but for its size, on a tiny copy of the data set."""
    recipe = load_recipe(f"detection-{layout}")
    if layout == "voc":
        for year, splits in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
            root = tmp_path / "VOCdevkit" / year
            drawn_objects.save_voc(root, size=32, **dict.fromkeys(splits, 2))
    else:
        for split in ("train2017", "val2017"):
            notes = tmp_path / f"coco/annotations/instances_{split}.json"
            drawn_objects.save_coco(tmp_path / "coco" / split, notes, 4, size=32)
    train, test = (recipe["data"][part] | {"image_size": 32} for part in ("train", "test"))
    protocol = recipe["protocol"] | {"epochs": 1, "batch_size": 2}
    metrics = measured(protocol, train, test, tmp_path, Log(), precision="bf16")
    assert set(metrics) == BOX_METRICS | (MASK_METRICS if layout == "coco" else set())
    assert metrics["data/corrupt_images"] == 0
