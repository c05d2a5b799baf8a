"""Segmentation: what its metrics are, and what a head learns on drawn shapes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.drawn_shapes import save_folders
from vicreg_platform.specs import Backbone, SegmentationData, SegmentationProtocol
from vicreg_workers.selfsup.data.dense.masked_batches import (
    MaskedBatch,
    plain_masked_batches,
    random_masked_batches,
)
from vicreg_workers.selfsup.data.dense.masked_images import IGNORED
from vicreg_workers.selfsup.data.drawn_batches import batch_count
from vicreg_workers.selfsup.data.sources import open_masked_images
from vicreg_workers.selfsup.data.transforms import normalised
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import calibrate_batchnorm
from vicreg_workers.selfsup.evaluation.segmentation import (
    SegmentationExamples,
    SegmentationResult,
    measure_segmentation,
    train_segmentation,
)
from vicreg_workers.selfsup.evaluation.segmentation_picture import segmentation_picture
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.feature_map import FeatureMap

CPU = torch.device("cpu")
SIZE = 32


class Predicted(nn.Module):
    """Predicts given classes, whatever the images are."""

    def __init__(self, classes: torch.Tensor, count: int) -> None:
        super().__init__()
        self._logits = nn.functional.one_hot(classes, count).permute(0, 3, 1, 2).float()
        self._at = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self._at += len(images)
        return self._logits[self._at - len(images) : self._at]


def measured(predicted: torch.Tensor, masks: torch.Tensor, classes: int) -> SegmentationResult:
    views = torch.zeros(len(masks), 3, *masks.shape[1:], dtype=torch.uint8)
    batches = [
        MaskedBatch(view, mask, ())
        for view, mask in zip(torch.split(views, 2), torch.split(masks.int(), 2), strict=True)
    ]
    return measure_segmentation(Predicted(predicted, classes), batches, classes, CPU)


def drawn_classes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, count, (5, 8, 8), generator=generator)


def test_a_perfect_prediction_is_one() -> None:
    masks = drawn_classes(4, 0)
    result = measured(masks, masks, 4)
    assert (result.miou, result.pixel_accuracy) == (1.0, 1.0)


def test_metrics_are_those_of_an_independent_confusion_matrix() -> None:
    masks, predicted = drawn_classes(4, 0), drawn_classes(4, 1)
    predicted = torch.where(drawn_classes(3, 2) > 0, masks, predicted)
    masks[:, :2] = IGNORED
    masks[masks == 3] = 2  # class 3 is predicted, and in no mask: it counts, as 0
    result = measured(predicted, masks, 6)  # classes 4 and 5 are in neither: they do not
    matrix = np.zeros((6, 6))
    for truth, guess in zip(masks.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if truth != IGNORED:
            matrix[truth, guess] += 1
    hits = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - hits
    assert result.miou == pytest.approx((hits[union > 0] / union[union > 0]).mean(), abs=1e-6)
    assert np.count_nonzero(union) == 4
    assert result.pixel_accuracy == pytest.approx(hits.sum() / matrix.sum(), abs=1e-6)


def test_what_is_ignored_counts_for_nothing() -> None:
    masks = drawn_classes(3, 0)
    wrong = masks.clone()
    wrong[:, :4] = 2 - wrong[:, :4]
    assert measured(wrong, masks, 3).miou < 1
    masks[:, :4] = IGNORED
    assert measured(wrong, masks, 3).miou == 1.0
    with pytest.raises(InvalidInput, match="no pixel of its masks has a class"):
        measured(wrong, torch.full_like(masks, IGNORED), 3)


def test_logits_that_are_not_finite_are_named() -> None:
    network = Predicted(drawn_classes(3, 0), 3)
    network._logits[3, 0, 0, 0] = float("nan")
    batches = [MaskedBatch(torch.zeros(5, 3, 8, 8).byte(), drawn_classes(3, 0).int(), ())]
    with pytest.raises(InvalidInput, match="logits are not finite"):
        measure_segmentation(network, batches, 3, CPU)


def folders(root: Path, name: str, count: int, seed: int) -> SegmentationData:
    save_folders(root / name, count, seed)
    return SegmentationData(source="segmentation_folder", layout="folders", path=name)


def protocol(**changes: object) -> SegmentationProtocol:
    fields = {"name": "segmentation", "epochs": 4, "batch_size": 8, "learning_rate": 0.05}
    return SegmentationProtocol.model_validate(fields | changes)


class Shapes:
    """Drawn shapes to train and to test on."""

    def __init__(self, root: Path) -> None:
        self.train = open_masked_images(folders(root, "train", 32, 0), under(root))
        self.test = open_masked_images(folders(root, "test", 12, 1), under(root))

    def trained(self, encoder: FeatureMap, how: SegmentationProtocol) -> nn.Module:
        batches = random_masked_batches(
            self.train,
            3,
            image_size=SIZE,
            batch_size=how.batch_size,
            seed=how.seed,
            epochs=how.epochs,
            loaders=0,
            interpolation="bilinear",
        )
        steps = batch_count(len(self.train), how.epochs, how.batch_size)
        network, corrupt = train_segmentation(encoder, batches, steps, 3, how, CPU)
        assert corrupt == ()
        return network

    def plain(self) -> Iterator[MaskedBatch]:
        return plain_masked_batches(
            self.test, 3, image_size=SIZE, batch_size=8, loaders=0, interpolation="bilinear"
        )

    def miou(self, network: nn.Module) -> float:
        return measure_segmentation(network, self.plain(), 3, CPU).miou


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))


def untrained(shapes: Shapes, dilated: bool = True) -> FeatureMap:
    torch.manual_seed(0)
    encoder = FeatureMap(build_backbone(Backbone(name="resnet10"), SIZE), SIZE, dilated)
    calibrate_batchnorm(encoder, shapes.train, SIZE, CPU)
    return encoder


def test_a_frozen_head_tells_a_trained_encoder_from_an_untrained_one(shapes: Shapes) -> None:
    """The trained encoder has been fine-tuned on the shapes; the head on it is a new one."""
    encoder = untrained(shapes)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    baseline = shapes.miou(shapes.trained(encoder, protocol()))
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    rates = {"learning_rate": 0.1, "backbone_lr": 0.1}
    tuned = shapes.trained(encoder, protocol(frozen=False, epochs=10, **rates))
    assert shapes.miou(tuned) > 0.7
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    fresh = shapes.miou(shapes.trained(encoder, protocol(seed=1)))
    assert fresh > 0.7
    assert fresh > baseline + 0.1
    assert baseline > 0.3  # all background: a third of 0.8


def test_a_seed_makes_the_same_network(shapes: Shapes) -> None:
    def head(seed: int) -> torch.Tensor:
        network = shapes.trained(untrained(shapes), protocol(epochs=1, seed=seed))
        weight = deepcopy(network.state_dict()["1.1.weight"])
        assert isinstance(weight, torch.Tensor)
        return weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_a_batch_without_classes_changes_nothing_but_by_its_decay() -> None:
    encoder = FeatureMap(build_backbone(Backbone(name="resnet10"), SIZE), SIZE)
    views = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    nothing = MaskedBatch(views, torch.full((2, SIZE, SIZE), IGNORED, dtype=torch.int32), ())
    network, _ = train_segmentation(encoder, [nothing], 1, 3, protocol(weight_decay=0), CPU)
    assert network(normalised(views, CPU)).isfinite().all()


def test_the_figure_has_the_colours_of_voc() -> None:
    masks = torch.tensor([0, 1, 2, 15, IGNORED]).repeat(5, 1)[None]
    views = torch.full((1, 3, 5, 5), 7, dtype=torch.uint8)
    content = segmentation_picture(SegmentationExamples(views, masks, masks.clamp_min(0)))
    picture = np.asarray(Image.open(io.BytesIO(content)))
    step = (picture.shape[0] - 4) // 3
    at = [4 + 160 * place // 5 + 16 for place in range(5)]
    colours = [picture[4 + step + 16, column].tolist() for column in at]
    # VOC's palette: background, aeroplane, bicycle, person, and what is not labelled.
    assert colours == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]]
    assert picture[20, 20].tolist() == [7, 7, 7]
    assert picture[4 + 2 * step + 16, at[4]].tolist() == [0, 0, 0]
