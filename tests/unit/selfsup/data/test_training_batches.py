"""Views have the sizes that the training asks for, exactly from its epochs on."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.integration.conftest import wait_until
from tests.unit.selfsup.data.test_sources import folder_spec, make_folder, under
from tests.unit.selfsup.processes import Gloo
from vicreg_platform.specs import Augmentation
from vicreg_workers.selfsup.data import crops
from vicreg_workers.selfsup.data.decoding import AnyPicture
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.random_parameters import draw_colours, draw_crops, generator_for
from vicreg_workers.selfsup.data.shared_memory import HERE, InFlight
from vicreg_workers.selfsup.data.sources import Subset, open_images
from vicreg_workers.selfsup.data.training_batches import Batch, ViewBatches

GROWING = ((0, 12), (2, 16))
LOCAL = {"local": 3, "local_size": 8}


@pytest.fixture(params=["held", "read"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Images of one size are held in memory; others are read when needed."""
    root = make_folder(tmp_path / "set")
    if request.param == "read":
        Image.new("RGB", (20, 14)).save(root / "class-1" / "3.png")
    return tmp_path


def images_in(folder: Path) -> Images:
    return open_images(folder_spec("set"), under(folder))


def batches_of(
    images: Images,
    sizes: Sequence[tuple[int, int]] = (),
    views: dict[str, int] | None = None,
    loaders: int = 0,
    **augmentation: Any,
) -> ViewBatches:
    spec = {"preset": "paper", "views": views or {}} | augmentation
    return ViewBatches(
        images,
        Augmentation.model_validate(spec),
        views=2,
        image_size=16,
        batch_size=4,
        seed=3,
        epochs=4,
        device=torch.device("cpu"),
        loaders=loaders,
        sizes=sizes,
    )


def sides(batch: Batch) -> list[int]:
    assert all(view.shape[2] == view.shape[3] for view in batch.views)
    return [view.shape[3] for view in batch.views]


def assert_same(first: Batch, second: Batch) -> None:
    assert first.indices == second.indices
    assert all(torch.equal(a, b) for a, b in zip(first.views, second.views, strict=True))


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_size_changes_at_its_epoch_however_far_loaders_read_ahead(
    folder: Path, loaders: int
) -> None:
    batches = batches_of(images_in(folder), GROWING, LOCAL, loaders)
    assert batches.sides == [(12, 12, 8, 8, 8), (16, 16, 8, 8, 8)]
    made = [list(batches.epoch(epoch)) for epoch in range(4)]
    assert [[sides(batch)[0] for batch in epoch] for epoch in made] == [
        [12, 12], [12, 12], [16, 16], [16, 16],
    ]  # fmt: skip
    alone = batches_of(images_in(folder), GROWING, LOCAL)
    for epoch, step in ((3, 1), (1, 1), (2, 0)):
        assert_same(next(alone.epoch(epoch, step)), made[epoch][step])
    # What is drawn does not depend on the size.
    last = batches_of(images_in(folder), views=LOCAL)
    assert_same(next(last.epoch(2)), made[2][0])


@pytest.mark.parametrize("resample", ["torch", "pillow"])
def test_global_views_stay_as_they_are_when_local_ones_are_added(
    folder: Path, resample: str
) -> None:
    images = images_in(folder)
    alone = batches_of(images, resample=resample)
    several = batches_of(images, views=LOCAL, resample=resample)
    for few, more in zip(alone.epoch(1), several.epoch(1), strict=True):
        assert sides(more) == [16, 16, 8, 8, 8]
        assert_same(few, more._replace(views=more.views[:2]))
        local = more.views[2:]
        assert not torch.equal(local[0], local[1])
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in local)


def test_local_views_are_smaller_parts_of_an_image_in_its_own_colours() -> None:
    views = {"local": 2, "local_size": 8, "local_scale": [0.1, 0.2]}
    spec = Augmentation.model_validate({"views": views})
    for view, (smallest, largest) in enumerate([(0.08, 1.0)] * 2 + [(0.1, 0.2)] * 2):
        area = draw_crops(spec, 500, generator_for(1, view), view).area
        assert smallest <= float(area.min()) < float(area.max()) <= largest
    drawn = [draw_colours(spec, view, 500, generator_for(2)) for view in range(4)]
    # In turn as the first and the second view: blur (1.0, 0.1), solarisation (0.0, 0.2).
    assert [bool(each.solarize.any()) for each in drawn] == [False, True] * 2
    assert [float((each.blur > 0).float().mean()) > 0.5 for each in drawn] == [True, False] * 2


def test_all_views_of_an_image_come_from_one_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set")
    Image.new("RGB", (20, 14)).save(root / "class-1" / "3.png")
    images = images_in(tmp_path)
    batches = batches_of(images, views=LOCAL)
    opened: list[int] = []
    really = images.open

    def noted(index: int) -> AnyPicture:
        opened.append(index)
        return really(index)

    monkeypatch.setattr(images, "open", noted)
    used = list(chain(*(batch.indices for batch in batches.epoch(0))))
    assert sorted(opened) == sorted(used)


def test_shared_memory_has_room_for_the_largest_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(tmp_path / "set")
    Image.new("RGB", (20, 14)).save(root / "class-1" / "3.png")
    asked: list[int] = []

    def noted(loaders: int, batch_bytes: int) -> InFlight:
        asked.append(batch_bytes)
        return HERE

    monkeypatch.setattr(crops, "in_flight", noted)
    batches_of(images_in(tmp_path), ((0, 24), (1, 16)), LOCAL, loaders=2)
    assert asked == [4 * 3 * (2 * 24**2 + 3 * 8**2)]


class Noting(Subset):
    """Images that leave a file for each that is opened, by whichever process."""

    folder: Path

    def open(self, index: int) -> AnyPicture:
        (self.folder / str(uuid.uuid4())).touch()
        return super().open(index)


def test_a_loader_is_as_many_batches_ahead_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "set")
    whole = images_in(tmp_path)
    images = Noting(whole, range(len(whole)))
    images.folder = tmp_path / "opened"
    images.folder.mkdir()
    monkeypatch.setattr(crops, "in_flight", lambda loaders, batch_bytes: InFlight(1, 3))
    monkeypatch.setattr(crops, "_common_shape", lambda images: None)
    batches = iter(batches_of(images, loaders=1).epoch(0))
    next(batches)
    # The batch that is used, and three more.
    wait_until(lambda: len(list(images.folder.iterdir())) == 4 * (1 + 3))


def made_by_each(folder: Path) -> list[list[Tensor]]:
    batches = batches_of(images_in(folder), GROWING, LOCAL)
    return [list(batch.views) for epoch in (1, 2) for batch in batches.epoch(epoch)]


def test_two_processes_share_the_views_of_one(two_processes: Gloo, folder: Path) -> None:
    first, second = two_processes.run(made_by_each, folder)
    for step, whole in enumerate(made_by_each(folder)):
        for view, views in enumerate(whole):
            together = torch.cat([first[step][view], second[step][view]])
            torch.testing.assert_close(together, views)  # a product of another size is rounded
