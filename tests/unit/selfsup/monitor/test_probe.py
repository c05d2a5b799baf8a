"""The accuracy of a training without labels is measured on labelled images."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.test_train import Recorder, spec_for
from vicreg_platform.specs import DigitsData, ImageFolderData
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import Digits, open_images
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.monitor.probe import Labelled, Probe
from vicreg_workers.selfsup.train import Pretraining

CPU = torch.device("cpu")
DIGITS = Labelled(
    Digits(DigitsData(source="digits")), 8, Digits(DigitsData(source="digits", split="test")), 8
)


def flat(root: Path) -> Images:
    (root / "flat").mkdir()
    for number in range(16):
        color = (number * 15, 255 - number * 15, 90)
        Image.new("RGB", (8 + number % 2, 8), color).save(root / "flat" / f"{number:02d}.png")
    return open_images(ImageFolderData(source="image_folder", path="flat"), under(root))


def test_neighbours_by_pixels_are_of_the_same_digit() -> None:
    backbone = nn.Flatten().train()
    assert Probe(DIGITS, CPU, 0, nullcontext).top1(backbone) > 0.95
    assert backbone.training


def test_images_without_labels_are_no_probe(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^watch\.probe\.train: its images need one label"):
        Probe(Labelled(flat(tmp_path), 8, DIGITS.test, 8), CPU, 0, nullcontext)


@pytest.mark.parametrize("labelled", [DIGITS, None])
def test_a_training_without_labels_has_the_accuracy_of_its_probe_alone(
    tmp_path: Path, labelled: Labelled | None
) -> None:
    images = flat(tmp_path)
    recorder = Recorder(tmp_path / "storage")
    spec = spec_for(epochs=2, watch={"knn_every_epochs": 1})
    Pretraining(spec, images, recorder, labelled).run()
    measured = recorder.named("knn/top1")
    assert len(measured) == (0 if labelled is None else 3)
    assert all(0.05 < value <= 1 for value in measured)
