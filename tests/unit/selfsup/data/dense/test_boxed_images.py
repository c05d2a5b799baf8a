"""Images with boxes are read as their layout says, and what does not fit is named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.drawn_objects import (
    drawn_objects,
    run_lengths,
    save_coco,
    save_voc,
    voc_note,
)
from vicreg_platform.specs import DetectionData
from vicreg_workers.data.pack import Options, pack
from vicreg_workers.selfsup.data.dense.boxed_batches import (
    BoxedView,
    plain_boxed_batches,
    random_boxed_batches,
    view_size,
)
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.images import unreadable
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput

VOC = {"layout": "voc", "split": "train"}
COCO = {"layout": "coco", "path": "images", "annotations": "notes/train.json"}


def opened(root: Path, **fields: Any) -> BoxedImages:
    spec = {"source": "detection_folder", "path": "set"} | fields
    images = open_images(DetectionData.model_validate(spec), under(root))
    assert isinstance(images, BoxedImages)
    return images


def coco(root: Path, change: Callable[[dict[str, Any]], object], count: int = 3) -> BoxedImages:
    """A tiny COCO, some of whose annotations were changed."""
    save_coco(root / "images", root / "notes/train.json", count)
    content = json.loads((root / "notes/train.json").read_text())
    change(content)
    (root / "notes/train.json").write_text(json.dumps(content))
    return opened(root, **COCO)


def views_of(images: BoxedImages, size: int = 64) -> list[BoxedView]:
    batches = plain_boxed_batches(
        images, image_size=size, batch_size=2, loaders=0, interpolation="bilinear"
    )
    return [view for views, _ in batches for view in views]


def test_both_layouts_say_what_was_drawn(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=4)
    save_coco(tmp_path / "images", tmp_path / "notes/train.json", 4)
    generator = np.random.default_rng(0)
    drawn = [drawn_objects(generator, int(generator.integers(1, 3)))[1] for _ in range(4)]
    for fields, categories in ((VOC, ("disc", "square")), (COCO, ("square", "disc"))):
        images = opened(tmp_path, **fields)
        assert (len(images), images.categories) == (4, categories)
        for index, objects in enumerate(drawn):
            read = images.objects(index)
            assert read.boxes.tolist() == [list(each.box) for each in objects]
            assert [categories[n] for n in read.categories] == [each.kind for each in objects]
            assert images.pair(index)[0].size == (read.width, read.height) == (64, 64)


def test_two_years_of_voc_are_one_set(tmp_path: Path) -> None:
    save_voc(tmp_path / "VOC2007", trainval=2)
    save_voc(tmp_path / "VOC2012", seed=1, trainval=3)
    note = tmp_path / "VOC2012/Annotations/VOC2012_trainval_000.xml"
    note.write_text(note.read_text().replace("square", "cat").replace("disc", "cat"))
    voc = {"layout": "voc", "split": "trainval", "path": "VOC2007", "more_paths": ["VOC2012"]}
    images = opened(tmp_path, **voc)
    assert len(images) == 5
    assert images.categories == ("cat", "disc", "square")
    assert images.objects(2).categories[0] == 0
    assert images.name(4).endswith("VOC2012/JPEGImages/VOC2012_trainval_002.jpg")
    assert len(opened(tmp_path, **voc, share=0.4)) == 2


def test_classes_are_numbered_as_those_of_the_training_images(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=4)
    images = opened(tmp_path, **VOC)
    renumbered = images.numbered_as(("square", "cat", "disc"))
    assert renumbered.categories == ("square", "cat", "disc")
    for index in range(4):
        old, new = images.objects(index).categories, renumbered.objects(index).categories
        assert [{0: 2, 1: 0}[n] for n in old.tolist()] == new.tolist()
    with pytest.raises(InvalidInput, match=r"of the class disc, which data\.train does not"):
        images.numbered_as(("square",))


def test_what_is_difficult_or_a_crowd_is_ignored(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=2)
    note = tmp_path / "set/Annotations/set_train_000.xml"
    note.write_text(note.read_text().replace("<difficult>0", "<difficult>1"))
    images = opened(tmp_path, **VOC)
    assert images.objects(0).ignored.all()
    assert not images.objects(1).ignored.any()
    crowds = coco(tmp_path, lambda content: content["annotations"][0].update(iscrowd=1))
    assert crowds.objects(0).ignored.tolist()[0]


def test_polygons_and_run_lengths_are_drawn(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    drawn = [drawn_objects(generator, int(generator.integers(1, 3)))[1] for _ in range(8)]
    images = coco(tmp_path, lambda content: None, count=8)
    assert all(view.masks is None for view in views_of(images))
    images.masks = True
    for view, objects in zip(views_of(images), drawn, strict=True):
        assert view.masks is not None
        truth = torch.from_numpy(np.stack([each.mask for each in objects]))
        assert torch.equal(view.masks.bool(), truth)
    for view, small in zip(views_of(images), views_of(images, 32), strict=True):
        assert small.masks is not None
        assert view.masks is not None
        assert small.masks.shape[1:] == (32, 32)
        areas = [masks.sum((1, 2)).float() for masks in (small.masks, view.masks)]
        assert torch.allclose(areas[0] * 4, areas[1], rtol=0.2)


def compressed(content: dict[str, Any]) -> None:
    from pycocotools import mask

    for each in content["annotations"]:
        outline = each["segmentation"]
        if isinstance(outline, dict):
            runs = mask.frPyObjects(outline, *outline["size"])
            outline["counts"] = runs["counts"].decode()


def test_compressed_run_lengths_are_the_same(tmp_path: Path) -> None:
    plain = coco(tmp_path / "a", lambda content: None)
    packed = coco(tmp_path / "b", compressed)
    plain.masks = packed.masks = True
    for one, other in zip(views_of(plain), views_of(packed), strict=True):
        assert one.masks is not None
        assert other.masks is not None
        assert torch.equal(one.masks, other.masks)


@pytest.mark.parametrize(
    "outline",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, "x"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        {"size": [64, 64], "counts": [10]},
        {"size": [64, 64], "counts": [5000, -904]},
        {"size": [640, 640], "counts": [409600]},
        {"size": [64, 64], "counts": "oooooooooooooooo"},
        {"size": [64, 64]},
        "square",
    ],
)
def test_a_broken_outline_leaves_its_image_out(tmp_path: Path, outline: object) -> None:
    images = coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=outline))
    assert len(views_of(images)) == 3  # for boxes alone, nothing is missing
    images.masks = True
    (batch,) = plain_boxed_batches(
        images, image_size=64, batch_size=3, loaders=0, interpolation="bilinear"
    )
    assert (len(batch.views), batch.unreadable) == (2, (0,))
    (warning,) = unreadable(images, batch.unreadable)
    assert "the segmentation of its object 0 cannot be used" in warning


def test_a_polygon_far_outside_is_cut_at_the_edges(tmp_path: Path) -> None:
    far = [[-1e8, -1e8, 1e8, -1e8, 1e8, 1e8, -1e8, 1e8]]
    images = coco(tmp_path, lambda content: content["annotations"][0].update(segmentation=far))
    images.masks = True
    masks = views_of(images)[0].masks
    assert masks is not None
    assert masks[0].all()


def test_boxes_are_cut_at_the_edges_and_those_without_area_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        boxes = ([-10, 50, 30, 100], [70, 0, 20, 20], [5, 5, 0, 10], [20, 20, -10, 10])
        content["annotations"] = [first | {"image_id": 100, "bbox": box} for box in boxes]

    with caplog.at_level(logging.WARNING):
        images = coco(tmp_path, change)
    assert images.objects(0).boxes.tolist() == [[0, 50, 20, 64]]
    assert "left out 3 objects that have no area in their images" in caplog.text
    assert len(images.objects(1).boxes) == 0
    assert views_of(images)[1].boxes.shape == (0, 4)


def test_an_image_of_another_size_is_left_out(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=3)
    Image.new("RGB", (64, 48)).save(tmp_path / "set/JPEGImages/set_train_001.jpg")
    images = opened(tmp_path, **VOC)
    assert len(views_of(images)) == 2
    (warning,) = unreadable(images, [1])
    assert "it is 64×48 pixels and its annotations say 64×64" in warning


ENTITIES = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>'


@pytest.mark.parametrize(
    ("note", "text"),
    [
        ("<annotation>", "no element found"),
        ("", "no element found"),
        (ENTITIES, "it has a document type"),
        (EXTERNAL, "it has a document type"),
        (EXTERNAL.encode("utf-16"), "it has a document type"),
        ("<annotation/>", "annotation has no size/width"),
        (voc_note(0, 64, []), "the size is 0×64"),
        (voc_note(64, 64, []).replace("</size>", "</size><object/>"), "an object has no name"),
        (
            voc_note(64, 64, []).replace("</size>", "</size><object><name>cat</name></object>"),
            "object has no bndbox/xmin",
        ),
        (voc_note(64, 64, []).replace("64", "1e"), "could not convert"),
        (voc_note(64, 64, []).replace("64", "nan"), "size/width is nan"),
    ],
)
def test_a_malformed_note_is_named(tmp_path: Path, note: str | bytes, text: str) -> None:
    save_voc(tmp_path / "set", train=3)
    file = tmp_path / "set/Annotations/set_train_001.xml"
    file.write_bytes(note if isinstance(note, bytes) else note.encode())
    with pytest.raises(InvalidInput, match=r"set_train_001.xml is not an annotation") as refusal:
        opened(tmp_path, **VOC)
    assert text in str(refusal.value)
    assert "correct it, or take its name from the split's list" in str(refusal.value)


def test_files_of_voc_that_are_missing_are_named(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=3)
    with pytest.raises(InvalidInput, match=r"ImageSets/Main/val.txt cannot be read"):
        opened(tmp_path, layout="voc", split="val")
    (tmp_path / "set/JPEGImages/set_train_001.jpg").unlink()
    (tmp_path / "set/Annotations/set_train_002.xml").unlink()
    with pytest.raises(InvalidInput, match=r"001.jpg does not exist, and 1 more"):
        opened(tmp_path, **VOC)


@pytest.mark.parametrize(
    ("place", "change", "text"),
    [
        ("images", {"file_name": "../secret.jpg"}, "images[0]: file_name ../secret.jpg leads out"),
        ("images", {"file_name": "/etc/passwd"}, "leads out of the folder"),
        ("images", {"file_name": 3}, "file_name must be a text, not 3"),
        ("images", {"width": "64"}, "width must be an integer, not 64"),
        ("images", {"height": 0}, "the image is 64×0 pixels"),
        ("categories", {"name": None}, "categories[0]: name must be a text"),
        ("annotations", {"category_id": 5}, "there is no category with the id 5"),
        ("annotations", {"image_id": 5}, "there is no image with the id 5"),
        ("annotations", {"bbox": [1, 2, 3]}, "annotations[0]: bbox must be four numbers"),
        ("annotations", {"bbox": [1, 2, 3, float("nan")]}, "bbox must be four numbers"),
        ("annotations", {"bbox": None}, "bbox must be four numbers"),
    ],
)
def test_a_malformed_entry_is_named(
    tmp_path: Path, place: str, change: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidInput, match=r"notes/train.json: .*: correct the file") as refusal:
        coco(tmp_path, lambda content: content[place][0].update(change))
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "has no categories"),
        ('{"categories": [1]}', "it is not an object"),
    ],
)
def test_another_file_than_cocos_is_named(tmp_path: Path, content: str, text: str) -> None:
    save_coco(tmp_path / "images", tmp_path / "notes/train.json", 1)
    (tmp_path / "notes/train.json").write_text(content)
    with pytest.raises(InvalidInput, match=r"data\.annotations") as refusal:
        opened(tmp_path, **COCO)
    assert text in str(refusal.value)


def test_missing_images_and_objects_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no annotations"):
        coco(tmp_path / "a", lambda content: content.update(annotations=[]))
    with pytest.raises(InvalidInput, match=r"x.jpg does not exist: it must have every image that"):
        coco(tmp_path / "b", lambda content: content["images"][0].update(file_name="x.jpg"))
    with pytest.raises(InvalidInput, match="no image that images names has an object"):
        coco(
            tmp_path / "c", lambda content: [a.update(bbox=[0] * 4) for a in content["annotations"]]
        )
    with pytest.raises(InvalidInput, match=r"data.annotations: .*other.json"):
        opened(tmp_path / "c", **COCO | {"annotations": "notes/other.json"})


@pytest.mark.parametrize("file", ["JPEGImages/set_train_001.jpg", "Annotations/set_train_001.xml"])
def test_no_link_leads_out_of_the_data_root(tmp_path: Path, file: str) -> None:
    root = tmp_path / "root"
    save_voc(root / "set", train=2)
    save_voc(tmp_path / "outside", train=2)
    (root / "set" / file).unlink()
    (root / "set" / file).symlink_to(tmp_path / "outside" / file.replace("set_", "outside_"))
    with pytest.raises(InvalidInput, match="outside the data root"):
        opened(root, **VOC)


def test_a_mirrored_view_shows_the_same_objects(tmp_path: Path) -> None:
    images = coco(tmp_path, lambda content: None, count=6)
    images.masks = True

    def read(loaders: int, seed: int = 0) -> list[BoxedView]:
        batches = random_boxed_batches(
            images,
            image_size=48,
            batch_size=4,
            seed=seed,
            epochs=2,
            loaders=loaders,
            interpolation="bilinear",
        )
        return [view for views, _ in batches for view in views]

    plain = {tuple(view.categories.tolist()): view for view in views_of(images, 48)}
    assert plain
    views = read(0)
    assert len(views) == 12
    for view in views:
        assert view.masks is not None
        for box, mask in zip(view.boxes, view.masks, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (box - torch.tensor(edges)).abs().max() <= 1
    mirrored = read(1)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(views, mirrored, strict=True))
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(views, mirrored, strict=True))
    others = read(0, seed=1)
    assert not all(
        torch.equal(a.boxes, b.boxes)
        for a, b in zip(views, others, strict=True)
        if a.boxes.shape == b.boxes.shape
    )
    firsts = {view.boxes.numpy().tobytes() for view in views}
    assert len(firsts) > 6  # some images were mirrored in one epoch, and not in the other


@pytest.mark.parametrize(
    ("width", "height", "view"),
    [
        (640, 480, (1067, 800)),
        (480, 640, (800, 1067)),
        (1600, 400, (1333, 333)),
        (9999, 1, (1333, 1)),
    ],
)
def test_a_view_has_detectron2s_size(width: int, height: int, view: tuple[int, int]) -> None:
    assert view_size(width, height, 800) == view


def test_images_with_boxes_are_not_packed(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=1)
    with pytest.raises(InvalidInput, match="images with boxes cannot be packed"):
        pack(opened(tmp_path, **VOC), "set", tmp_path / "shards", Options())


def test_run_lengths_of_the_tests_are_cocos() -> None:
    mask = np.array([[0, 1], [1, 1]], bool)
    assert run_lengths(mask) == {"size": [2, 2], "counts": [1, 3, 0]}
