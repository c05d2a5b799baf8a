"""Where images come from: what may be named, and what is refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_platform.specs.data import expand_braces


def parsed(data: dict[str, Any], **more: Any) -> PretrainSpec:
    spec = parse_spec({"kind": "pretrain", "data": data} | more)
    assert isinstance(spec, PretrainSpec)
    return spec


def test_ranges_are_written_out() -> None:
    assert expand_braces("a") == ["a"]
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{0..1}/{5..6}") == ["0/5", "0/6", "1/5", "1/6"]
    assert expand_braces("{a..b}{1,2}") == ["{a..b}{1,2}"]


@pytest.mark.parametrize(
    ("shards", "text"),
    [
        ("../x.tar", "cannot leave it"),
        ("/etc/{0..3}.tar", "cannot leave it"),
        ("file:///etc", "must start with one of s3://, gs://, https://, http://"),
        ("ftp://example.org/{0..1}.tar", "must start with one of"),
        ("s3:bucket", "or a whole URL"),
        ("a-{5..1}.tar", "runs backwards"),
        ("a-{0..999999999}.tar", "at most 100000 shards"),
        ("{0..999}/{0..999}/{0..999}", "at most 100000 shards"),
    ],
)
def test_shards_that_cannot_be_named(shards: str, text: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parsed({"source": "webdataset", "shards": shards})
    (fault,) = caught.value.faults
    assert fault.field == "data.shards"
    assert text in fault.message


@pytest.mark.parametrize(
    "shards", ["set", "set/{00..99}.tar", "s3://bucket/set", "https://a/b.tar", "http://a"]
)
def test_shards_that_can(shards: str) -> None:
    spec = parsed({"source": "webdataset", "shards": shards})
    assert spec.data.source == "webdataset"
    assert spec.data.remote == ("://" in shards)
    assert spec.data.image_size == 224


def test_a_probes_views_have_the_size_of_the_training() -> None:
    data = {"source": "image_folder", "path": "x", "image_size": 96}
    probe = {"train": {"source": "digits"}, "test": {"source": "digits", "image_size": 40}}
    watched = parsed(data, watch={"probe": probe}).watch.probe
    assert watched is not None
    assert (watched.train.image_size, watched.test.image_size) == (96, 40)
    named = parsed(data, watch={"probe": probe}).datasets()
    assert set(named) == {"data", "watch.probe.train", "watch.probe.test"}
    with pytest.raises(InvalidSpec, match="takes images of one size: here 96"):
        parsed(data, watch={"probe": probe}, backbone={"name": "vit_s"})


@pytest.mark.parametrize("hold", ["auto", "never", 0, 10**9])
def test_held_images_are_bounded(hold: str | int) -> None:
    assert parsed({"source": "digits", "hold": hold}).data.hold == hold
    with pytest.raises(InvalidSpec, match=r"data\.hold"):
        parsed({"source": "digits", "hold": -1})


def test_an_evaluation_cannot_guess_labels_for_a_folder_without() -> None:
    data = {"source": "image_folder", "path": "x/train", "classes": "none"}
    with pytest.raises(InvalidSpec, match="the test images can only be guessed"):
        parsed(data, evaluations=[{"protocol": {"name": "knn"}}])


MASKED = {"source": "segmentation_folder", "layout": "voc", "path": "VOC2012", "split": "train"}
SEGMENTATION: dict[str, Any] = {
    "kind": "evaluate",
    "encoder": {"untrained": {"name": "resnet50"}},
    "protocol": {"name": "segmentation"},
}


def faults_of(spec: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(InvalidSpec) as refusal:
        parse_spec(spec)
    return {fault.field: fault.message for fault in refusal.value.faults}


def test_images_with_masks_are_for_segmentation_and_nothing_else() -> None:
    digits = {"source": "digits"}
    parse_spec(SEGMENTATION | {"data": {"train": MASKED, "test": MASKED | {"split": "val"}}})
    faults = faults_of(SEGMENTATION | {"data": {"train": digits, "test": MASKED}})
    assert faults == {
        "data.train.source": "protocol segmentation needs images with masks: use "
        "segmentation_folder"
    }
    knn = SEGMENTATION | {"protocol": {"name": "knn"}, "data": {"train": digits, "test": MASKED}}
    assert faults_of(knn) == {
        "data.test.source": "segmentation_folder is for protocol segmentation, not knn"
    }
    pretraining = {"kind": "pretrain", "data": MASKED}
    assert "use image_folder" in faults_of(pretraining)["data.source"]
    sweep = {"kind": "sweep", "base": pretraining, "space": {"optimizer.base_lr": {"choice": [1]}}}
    assert "use image_folder" in faults_of(sweep)["base.data.source"]


def test_the_evaluations_and_the_probe_of_a_pretraining_are_checked_too() -> None:
    masked = {"train": MASKED, "test": MASKED}
    evaluations: list[dict[str, Any]] = [
        {"protocol": {"name": "segmentation"}},
        {"protocol": {"name": "knn"}, "data": masked},
        {"protocol": {"name": "segmentation"}, "data": masked},
    ]
    spec = {"kind": "pretrain", "data": {"source": "digits"}, "evaluations": evaluations}
    faults = faults_of(spec | {"watch": {"probe": masked}})
    assert set(faults) == {
        "evaluations[0].data",
        "evaluations[1].data.train.source",
        "evaluations[1].data.test.source",
        "watch.probe.train.source",
        "watch.probe.test.source",
    }
    assert "needs images with masks" in faults["evaluations[0].data"]


@pytest.mark.parametrize(
    ("changes", "field", "text"),
    [
        ({"split": None}, "split", "layout voc needs it"),
        ({"split": "../val"}, "split", "should match"),
        ({"layout": "ade20k"}, "split", "must be training or validation"),
        ({"layout": "folders"}, "split", "name a path for each"),
        ({"num_classes": 20}, "num_classes", "layout voc has its own"),
        ({"ignore_index": 0}, "ignore_index", "layout voc has its own"),
        ({"path": "../VOC2012"}, "path", "cannot leave it"),
        ({"hold": "auto"}, "hold", "unknown field"),
    ],
)
def test_masks_that_cannot_be_named(changes: dict[str, Any], field: str, text: str) -> None:
    data = {"train": MASKED | changes, "test": MASKED}
    assert text in faults_of(SEGMENTATION | {"data": data})[f"data.train.{field}"]


BOXED = {"source": "detection_folder", "layout": "voc", "path": "VOC2007", "split": "trainval"}
COCO = {
    "source": "detection_folder",
    "layout": "coco",
    "path": "train2017",
    "annotations": "a.json",
}
DETECTION = SEGMENTATION | {"protocol": {"name": "detection"}}


def test_images_with_boxes_are_for_detection_and_nothing_else() -> None:
    parse_spec(DETECTION | {"data": {"train": BOXED, "test": COCO}})
    faults = faults_of(DETECTION | {"data": {"train": MASKED, "test": BOXED}})
    assert faults == {
        "data.train.source": "protocol detection needs images with boxes: use detection_folder"
    }
    assert faults_of(SEGMENTATION | {"data": {"train": MASKED, "test": BOXED}}) == {
        "data.test.source": "protocol segmentation needs images with masks: use segmentation_folder"
    }
    knn = DETECTION | {"protocol": {"name": "knn"}}
    assert faults_of(knn | {"data": {"train": {"source": "digits"}, "test": BOXED}}) == {
        "data.test.source": "detection_folder is for protocol detection, not knn"
    }
    faults = faults_of({"kind": "pretrain", "data": BOXED})
    assert "use image_folder with its images" in faults["data.source"]


def test_masks_need_coco_and_a_pyramid() -> None:
    masks = {"name": "detection", "masks": True}
    parse_spec(DETECTION | {"protocol": masks, "data": {"train": COCO, "test": COCO}})
    faults = faults_of(DETECTION | {"protocol": masks, "data": {"train": COCO, "test": BOXED}})
    assert "must be false for layout voc" in faults["protocol.masks"]
    data = {"train": COCO, "test": COCO}
    faults = faults_of(DETECTION | {"protocol": masks | {"head": "c4"}, "data": data})
    assert faults["protocol.masks"] == "head c4 has no masks: use fpn"


@pytest.mark.parametrize("name", ["vit_s", "timm/resnet50", "torchvision/densenet121"])
def test_only_residual_networks_detect_objects(name: str) -> None:
    data = {"train": COCO, "test": COCO}
    untrained = DETECTION | {"encoder": {"untrained": {"name": name}}, "data": data}
    assert "needs a residual network" in faults_of(untrained)["encoder.untrained.name"]
    path = {"path": "x.pth", "backbone": {"name": name}}
    faults = faults_of(DETECTION | {"encoder": path, "data": data})
    assert "needs a residual network" in faults["encoder.backbone.name"]
    evaluations = [{"protocol": {"name": "detection"}, "data": data}]
    pretraining = {"kind": "pretrain", "data": {"source": "digits"}, "backbone": {"name": name}}
    faults = faults_of(pretraining | {"evaluations": evaluations})
    assert "needs a residual network" in faults["backbone.name"]


def test_networks_of_the_platform_and_torchvision_detect_objects() -> None:
    data = {"train": COCO, "test": COCO}
    for name in ("resnet18", "wide_resnet50_2", "torchvision/resnext50_32x4d"):
        parse_spec(DETECTION | {"encoder": {"untrained": {"name": name}}, "data": data})
    parse_spec(DETECTION | {"encoder": {"job": "a" * 20}, "data": data})


@pytest.mark.parametrize(
    ("data", "field", "text"),
    [
        (BOXED | {"split": None}, "split", "layout voc needs it"),
        (BOXED | {"split": "../val"}, "split", "should match"),
        (BOXED | {"annotations": "a.json"}, "annotations", "layout voc has none"),
        (BOXED | {"more_paths": ["../VOC2012"]}, "more_paths[0]", "cannot leave it"),
        (COCO | {"annotations": None}, "annotations", "layout coco needs it"),
        (COCO | {"annotations": "/a.json"}, "annotations", "cannot leave it"),
        (COCO | {"split": "train"}, "split", "layout coco has none"),
        (COCO | {"more_paths": ["val2017"]}, "more_paths", "layout coco has none"),
    ],
)
def test_boxes_that_cannot_be_named(data: dict[str, Any], field: str, text: str) -> None:
    faults = faults_of(DETECTION | {"data": {"train": data, "test": BOXED}})
    assert text in faults[f"data.train.{field}"]
