"""Crops of files are those that Pillow makes, whoever makes them."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.unit.selfsup.data.test_decoding import encoded, photograph
from tests.unit.selfsup.data.test_sources import under
from vicreg_platform.specs import Augmentation, ImageFolderData
from vicreg_platform.specs.data import Hold, Interpolation
from vicreg_workers.selfsup.data.crops import open_crops
from vicreg_workers.selfsup.data.decoding import Picture
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import draw_crops, draw_flips, generator_for
from vicreg_workers.selfsup.data.read_crops import ReadCrops
from vicreg_workers.selfsup.data.shared_memory import in_flight
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.data.steps import Chosen, Cropped

SIZES = [(90, 60), (60, 100), (200, 150), (75, 75), (31, 40), (500, 375)]
STEP = Chosen(list(range(len(SIZES))), (7, 1, 0, 3), 0, total=len(SIZES), sides=(32, 32))


@pytest.fixture
def images(tmp_path: Path) -> Images:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        content = encoded(photograph(*size, seed=number), quality=95)
        (folder / f"{number}.jpg").write_bytes(content)
    return open_images(ImageFolderData(source="image_folder", path="photos"), under(tmp_path))


def crops(
    images: Images,
    step: Chosen,
    size: int = 32,
    resample: str = "torch",
    interpolation: Interpolation = "bicubic",
    loaders: int = 0,
) -> Cropped:
    spec = Augmentation.model_validate({"resample": resample})
    made = ReadCrops(images, spec, torch.device("cpu"), in_flight(loaders, 1), interpolation)
    return next(iter(made.of([step._replace(sides=(size, size))])))


def by_pillow(
    images: Images, size: int, interpolation: Interpolation, scale: int = 1
) -> list[list[Tensor]]:
    """The same crops, one image after the other."""
    spec, generator = Augmentation.model_validate({}), generator_for(*STEP.key)
    views = []
    for _ in range(2):
        drawn = draw_crops(spec, len(SIZES), generator)
        flips = draw_flips(spec, len(SIZES), generator)
        view = []
        for index, (width, height) in enumerate(SIZES):
            sides = torch.tensor([height * scale]), torch.tensor([width * scale])
            box = drawn.rows(index, 1).boxes(*sides)
            top, left, tall, wide = box[0].tolist()
            crop = images.read(index).crop((left, top, left + wide, top + tall))
            crop = crop.resize((size, size), Image.Resampling[interpolation.upper()])
            if flips[index]:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            view.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1))
        views.append(view)
    return views


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_pillows_to_1_of_255(
    images: Images, size: int, interpolation: Interpolation
) -> None:
    ours = crops(images, STEP, size, interpolation=interpolation)
    for view, wanted in zip(ours.views, by_pillow(images, size, interpolation), strict=True):
        difference = (view * 255 - torch.stack(wanted).float()).abs()
        assert float((difference > 1.01).float().mean()) < 1e-4
        assert float(difference.max()) < 5
        assert float(difference.mean()) < 0.1


def test_crops_much_larger_than_a_view_are_close_to_pillows(tmp_path: Path) -> None:
    """The JPEG file is then decoded at a part of its size."""
    for number, (width, height) in enumerate(SIZES):
        content = encoded(photograph(12 * width, 12 * height, seed=number), quality=95)
        (tmp_path / f"{number}.jpg").write_bytes(content)
    images = open_images(ImageFolderData(source="image_folder", path="."), under(tmp_path))
    ours = crops(images, STEP, 64)
    for view, wanted in zip(ours.views, by_pillow(images, 64, "bicubic", scale=12), strict=True):
        difference = (view * 255 - torch.stack(wanted).float()).abs()
        assert float(difference.mean()) < 1


def test_pillow_crops_image_by_image_as_it_always_has(images: Images) -> None:
    """An independent writing of what versions before 0.3.0 did."""
    spec = Augmentation.model_validate({})
    ours = crops(images, STEP, resample="pillow")
    for place, index in enumerate(STEP.indices):
        generator = generator_for(*STEP.key, place)
        image = images.read(index)
        for view in ours.views:
            area = torch.rand(1, 10, generator=generator) * (1 - 0.08) + 0.08
            low, high = np.log(3 / 4), np.log(4 / 3)
            ratio = torch.exp(torch.rand(1, 10, generator=generator) * (high - low) + low)
            wide = (area * image.height * image.width * ratio).sqrt().round()
            tall = (area * image.height * image.width / ratio).sqrt().round()
            corner = torch.rand(2, 1, generator=generator)
            fits = [
                n for n in range(10) if wide[0, n] <= image.width and tall[0, n] <= image.height
            ]
            w, h = int(wide[0, fits[0]]), int(tall[0, fits[0]])
            top = min(int(corner[0] * (image.height - h + 1)), image.height - h)
            left = min(int(corner[1] * (image.width - w + 1)), image.width - w)
            crop = image.crop((left, top, left + w, top + h)).resize((32, 32), 3)
            if torch.rand(1, generator=generator) < spec.horizontal_flip:
                crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            wanted = torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() / 255
            assert torch.equal(view[place], wanted)


@pytest.mark.parametrize("resample", ["torch", "pillow"])
def test_parts_of_a_step_are_those_of_the_whole(images: Images, resample: str) -> None:
    whole = crops(images, STEP, resample=resample)
    for first, count in ((0, 2), (2, 4)):
        part = STEP._replace(indices=STEP.indices[first : first + count], first=first)
        made = crops(images, part, resample=resample, loaders=1)
        for view, all_of in zip(made.views, whole.views, strict=True):
            assert torch.equal(view, all_of[first : first + count])


def test_an_image_that_breaks_while_decoded_is_replaced(images: Images, tmp_path: Path) -> None:
    file = tmp_path / "photos" / "2.jpg"
    file.write_bytes(file.read_bytes()[:-500])  # its header is whole
    (tmp_path / "photos" / "4.jpg").write_bytes(b"")
    made = crops(images, STEP)
    assert made.indices == [0, 1, 3, 3, 5, 5]
    assert sorted(made.skipped) == [2, 4]
    sound = crops(images, STEP._replace(indices=[0, 1, 3, 3, 5, 5]))
    assert all(torch.equal(a, b) for a, b in zip(made.views, sound.views, strict=True))


class Watched(Picture):
    """A picture that counts how many have been decoded and are still there."""

    decoded: ClassVar[weakref.WeakSet[Watched]] = weakref.WeakSet()
    most = 0

    def pixels(self, shrink: float = 1.0) -> Tensor:
        """See ``Picture.pixels``."""
        self.decoded.add(self)
        Watched.most = max(Watched.most, len(self.decoded))
        return super().pixels(shrink)


def test_one_picture_of_a_step_is_decoded_at_a_time(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of 12 megapixels keeps 36 MB: a step of 256 of them would fill the memory."""
    alone = crops(images, STEP)
    content = images.content  # type: ignore[attr-defined]
    monkeypatch.setattr(images, "open", lambda index: Watched(content(index)))
    watched = crops(images, STEP)
    assert Watched.most == 1
    assert watched.indices == alone.indices
    assert torch.equal(watched.boxes, alone.boxes)
    assert all(torch.equal(a, b) for a, b in zip(watched.views, alone.views, strict=True))


def ramps(folder: Path, sizes: list[tuple[int, int]]) -> None:
    """Images whose red is where a pixel lies across, and whose green is where it lies down."""
    folder.mkdir()
    for number, (width, height) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), dtype=np.uint8)
        pixels[:, :, 0] = np.arange(width)[None]
        pixels[:, :, 1] = np.arange(height)[:, None]
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.parametrize("way", ["torch", "pillow", "held"])
def test_a_box_says_what_its_view_shows(tmp_path: Path, way: str) -> None:
    sizes = [(200, 150)] * 4 if way == "held" else [(200, 150), (120, 180), (60, 250), (90, 90)]
    ramps(tmp_path / "ramps", sizes)
    broken = tmp_path / "ramps" / "1.png"
    if way != "held":
        # Its header says its size, and what replaces it has another one.
        broken.write_bytes(broken.read_bytes()[:300])
    data = ImageFolderData(source="image_folder", path="ramps")
    spec = Augmentation.model_validate({"resample": "torch" if way == "held" else way})
    hold: Hold = "auto" if way == "held" else "never"
    opened = open_images(data, under(tmp_path))
    cropper = open_crops(opened, spec, torch.device("cpu"), 0, 2**20, "bilinear", hold)
    assert (cropper.held_bytes > 0) == (way == "held")
    step = Chosen([0, 1, 2, 3], (7, 1, 0, 3), 0, total=4, sides=(32, 16))
    cropped = next(iter(cropper.of([step])))
    assert cropped.boxes.shape == (4, 2, 5)
    assert set(cropped.boxes[:, :, 4].flatten().tolist()) == {0, 1}
    for number, view in enumerate(cropped.views):
        pixels = view * 255
        for place in range(4):
            top, left, height, width, mirrored = cropped.boxes[place, number].tolist()
            across, down = pixels[place, 0].mean(), pixels[place, 1].mean()
            assert float(across) == pytest.approx(left + (width - 1) / 2, abs=1)
            assert float(down) == pytest.approx(top + (height - 1) / 2, abs=1)
            falls = pixels[place, 0, 8, 0] > pixels[place, 0, 8, -1]
            assert bool(falls) == bool(mirrored)
