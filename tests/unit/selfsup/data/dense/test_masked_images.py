"""Images with masks are read as their layout says, and what does not fit is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.drawn_shapes import save_ade20k, save_folders, save_voc
from vicreg_platform.specs import SegmentationData
from vicreg_workers.selfsup.data.dense.masked_batches import (
    PADDING,
    plain_masked_batches,
    random_masked_batches,
)
from vicreg_workers.selfsup.data.dense.masked_images import IGNORED, MaskedImages
from vicreg_workers.selfsup.data.images import unreadable
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput


def opened(root: Path, **fields: Any) -> MaskedImages:
    spec = {"source": "segmentation_folder", "layout": "folders", "path": "set"} | fields
    images = open_images(SegmentationData.model_validate(spec), under(root))
    assert isinstance(images, MaskedImages)
    return images


def test_voc(tmp_path: Path) -> None:
    save_voc(tmp_path / "set", train=3, val=2)
    train = opened(tmp_path, layout="voc", split="train")
    assert (len(train), train.class_count()) == (3, 21)
    assert train.name(0).endswith("set/JPEGImages/2007_train_0.jpg")
    image, mask = train.pair(1)
    assert image.mode == "RGB"
    assert mask.shape == (32, 32)
    assert set(mask.flatten().tolist()) == {IGNORED, 0, 2}  # the palette's numbers, not its colours
    assert len(opened(tmp_path, layout="voc", split="val")) == 2
    with pytest.raises(InvalidInput, match=r"Segmentation/trainaug.txt cannot be read"):
        opened(tmp_path, layout="voc", split="trainaug")
    lists = tmp_path / "set/ImageSets/Segmentation"
    names = (lists / "val.txt").read_text().split()
    for encoding in ("utf-8-sig", "utf-16"):  # as Windows writes them
        (lists / "win.txt").write_bytes("\r\n".join(names).encode(encoding))
        windows = opened(tmp_path, layout="voc", split="win")
        assert [windows.name(i) for i in range(2)] == [
            opened(tmp_path, layout="voc", split="val").name(i) for i in range(2)
        ]
    (lists / "bad.txt").write_text("../../../etc/passwd\n")
    with pytest.raises(InvalidInput, match="must hold names"):
        opened(tmp_path, layout="voc", split="bad")
    (lists / "empty.txt").write_text("\n")
    with pytest.raises(InvalidInput, match="names no images"):
        opened(tmp_path, layout="voc", split="empty")


def test_ade20k(tmp_path: Path) -> None:
    save_ade20k(tmp_path / "set", training=3, validation=2)
    images = opened(tmp_path, layout="ade20k", split="training")
    assert (len(images), images.class_count()) == (3, 150)
    raw = np.asarray(Image.open(tmp_path / "set/annotations/training/ADE_train_00000000.png"))
    assert sorted(set(raw.flatten().tolist())) == [0, 1, 2]
    mask = images.pair(0)[1].numpy()
    assert np.array_equal(mask[raw > 0], raw[raw > 0] - 1)
    assert (mask[raw == 0] == IGNORED).all()


def test_folders(tmp_path: Path) -> None:
    save_folders(tmp_path / "set", 6, 0)
    images = opened(tmp_path)
    assert (len(images), images.class_count()) == (6, 3)  # the highest label is 2
    assert opened(tmp_path, num_classes=7).class_count() == 7
    assert set(opened(tmp_path, ignore_index=2).mask(1).flatten().tolist()) == {IGNORED, 0, 255}
    some = opened(tmp_path, share=0.5, share_seed=1)
    assert len(some) == 3
    names = [os.path.basename(some.name(index)) for index in range(3)]
    at = [os.path.basename(images.name(index)) for index in range(6)].index(names[2])
    assert torch.equal(some.mask(2), images.mask(at))


def test_an_image_without_its_mask_is_named(tmp_path: Path) -> None:
    save_folders(tmp_path / "set", 4, 0)
    (tmp_path / "set/masks/2.png").unlink()
    (tmp_path / "set/masks/3.png").unlink()
    with pytest.raises(InvalidInput, match=r"masks/2.png does not exist, and 1 more are missing"):
        opened(tmp_path)


def test_another_layout_is_named(tmp_path: Path) -> None:
    save_folders(tmp_path / "set", 1, 0)
    with pytest.raises(InvalidInput, match="folder that holds ImageSets, JPEGImages"):
        opened(tmp_path, layout="voc", split="train")
    with pytest.raises(InvalidInput, match="layout ade20k has a folder images/training"):
        opened(tmp_path, layout="ade20k", split="training")
    (tmp_path / "set/images/0.jpg").unlink()
    with pytest.raises(InvalidInput, match="there are no images in"):
        opened(tmp_path)


def test_no_link_leads_out_of_the_data_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    save_folders(root / "set", 2, 0)
    save_folders(tmp_path / "other", 2, 1)
    mask = root / "set/masks/1.png"
    mask.unlink()
    mask.symlink_to(tmp_path / "other/masks/1.png")
    with pytest.raises(InvalidInput, match="outside the data root"):
        opened(root)
    mask.unlink()
    mask.symlink_to(root / "set/masks/0.png")
    assert len(opened(root)) == 2
    (root / "set/images").rename(root / "moved")
    (root / "set/images").symlink_to(tmp_path / "other/images")
    with pytest.raises(InvalidInput, match="outside the data root"):
        opened(root)


def resized(file: Path) -> None:
    Image.open(file).resize((20, 10), Image.Resampling.NEAREST).save(file)


def coloured(file: Path) -> None:
    Image.open(file).convert("RGB").save(file)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (resized, "its mask is 20×10 pixels and the image 32×32: save both at one size"),
        (coloured, "masks/1.png are RGB, not class numbers"),
        (truncated, "its mask"),
    ],
)
def test_a_broken_mask_leaves_its_image_out(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    save_folders(tmp_path / "set", 3, 0)
    harm(tmp_path / "set/masks/1.png")
    images = opened(tmp_path)
    assert images.class_count() == 2 + (harm is resized)  # the square's mask is the broken one
    (batch,) = plain_masked_batches(
        images, 3, image_size=16, batch_size=8, loaders=0, interpolation="bicubic"
    )
    assert (len(batch.views), batch.unreadable) == (2, (1,))
    (warning,) = unreadable(images, batch.unreadable)
    assert reason in warning


@pytest.mark.parametrize("loaders", [0, 1])
def test_a_label_that_is_no_class_ends_the_evaluation(tmp_path: Path, loaders: int) -> None:
    save_folders(tmp_path / "set", 2, 0)
    images = opened(tmp_path, num_classes=2)
    batches = plain_masked_batches(
        images, 2, image_size=16, batch_size=2, loaders=loaders, interpolation="bicubic"
    )
    with pytest.raises(InvalidInput, match=r"masks/1.png has a pixel of class 2, and there are 2"):
        next(batches)


def position_coded(root: Path, high: int, wide: int) -> MaskedImages:
    """An image whose every pixel says where it is, and a mask that says the same."""
    for folder in ("images", "masks"):
        (root / "set" / folder).mkdir(parents=True)
    columns = np.broadcast_to(np.arange(wide) * 200 // wide, (high, wide)).astype(np.uint8)
    Image.fromarray(columns).convert("RGB").save(root / "set/images/0.png")
    Image.fromarray(columns).save(root / "set/masks/0.png")
    return opened(root)


def test_a_crop_and_its_mask_show_the_same_place(tmp_path: Path) -> None:
    images = position_coded(tmp_path, 60, 100)

    def read(loaders: int, seed: int = 0) -> list[torch.Tensor]:
        batches = random_masked_batches(
            images,
            200,
            image_size=40,
            batch_size=1,
            seed=seed,
            epochs=6,
            loaders=loaders,
            interpolation="bilinear",
        )
        made = []
        for views, masks, _ in batches:
            assert (views[:, 0].int() - masks).abs().max() <= 3
            made.append(masks)
        return made

    crops = read(0)
    rising = {bool(each[0, 0, -1] > each[0, 0, 0]) for each in crops}
    assert rising == {True, False}  # some are mirrored
    assert len({tuple(each.flatten().tolist()) for each in crops}) == 6
    # They depend on the seed alone.
    assert all(torch.equal(a, b) for a, b in zip(crops, read(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(crops, read(0, seed=1), strict=True))


def test_a_whole_image_is_padded_and_its_padding_ignored(tmp_path: Path) -> None:
    images = position_coded(tmp_path, 50, 100)
    (batch,) = plain_masked_batches(
        images, 200, image_size=40, batch_size=1, loaders=0, interpolation="bilinear"
    )
    view, mask = batch.views[0], batch.masks[0]
    assert (view[0, :20].int() - mask[:20]).abs().max() <= 3
    assert mask[0, 0] < 5
    assert mask[0, -1] > 190
    assert (mask[20:] == IGNORED).all()
    assert (view[:, 20:].int() == torch.tensor(PADDING).view(3, 1, 1)).all()
