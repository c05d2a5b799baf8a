"""Detection: what its metrics are, and what a detector learns on drawn objects."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.drawn_objects import save_coco
from tests.unit.selfsup.small_detector import shrink_detector
from vicreg_platform.specs import Backbone, DetectionData, DetectionProtocol
from vicreg_workers.selfsup.data.dense.boxed_batches import (
    BoxedBatch,
    BoxedView,
    plain_boxed_batches,
    random_boxed_batches,
)
from vicreg_workers.selfsup.data.dense.boxed_images import BoxedImages
from vicreg_workers.selfsup.data.drawn_batches import batch_count
from vicreg_workers.selfsup.data.sources import open_boxed_images
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.detection import (
    SCHEDULES,
    DetectionExample,
    DetectionResult,
    Detections,
    measure_detection,
    train_detector,
)
from vicreg_workers.selfsup.evaluation.detection_picture import SIDE, detection_picture
from vicreg_workers.selfsup.evaluation.features import calibrate_batchnorm
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.precision import autocast

CPU = torch.device("cpu")
SIZE = 64


class Found(nn.Module):
    """Finds given objects, whatever the images are."""

    def __init__(self, found: list[Detections]) -> None:
        super().__init__()
        self._found = iter(found)

    def forward(self, images: list[Tensor]) -> list[Detections]:
        return [next(self._found) for _ in images]


BOXES = torch.tensor([[0.0, 0, 20, 20], [30, 30, 50, 60]])
KINDS = torch.tensor([0, 1])


def seen(ignored: tuple[bool, ...] = (False, False), masks: bool = False) -> BoxedView:
    pixels = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    drawn = filled(BOXES).to(torch.uint8) if masks else None
    return BoxedView(pixels, BOXES, KINDS, torch.tensor(ignored), drawn)


def filled(boxes: Tensor) -> Tensor:
    """Masks ``[n, SIZE, SIZE]`` that fill boxes."""
    masks = torch.zeros(len(boxes), SIZE, SIZE)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return masks


def found(boxes: Tensor, labels: Tensor, scores: Tensor | None = None) -> Detections:
    scores = torch.full((len(boxes),), 0.9) if scores is None else scores
    masks = filled(boxes)[:, None] if len(boxes) else torch.zeros(0, 1, SIZE, SIZE)
    return {"boxes": boxes, "labels": labels, "scores": scores, "masks": masks}


def measured(
    views: list[BoxedView], detections: list[Detections], masks: bool = False
) -> DetectionResult:
    return measure_detection(Found(detections), [BoxedBatch(views, ())], masks, CPU)


def test_perfect_detections_are_one() -> None:
    result = measured([seen()] * 2, [found(BOXES, KINDS + 1)] * 2)
    assert result.boxes == pytest.approx({"ap": 1.0, "ap50": 1.0, "ap75": 1.0})
    assert result.masks is None


def test_an_overlap_of_six_tenths_counts_at_one_half_alone() -> None:
    # A quarter of a side aside: 15 of 25 columns are in both.
    shifted = BOXES + torch.tensor([[5.0, 0, 5, 0]])
    result = measured([seen()], [found(shifted, KINDS + 1)])
    # IoU of 15/25 for both: right at 0.5, 0.55 and 0.6, wrong at the seven thresholds above.
    assert result.boxes == pytest.approx({"ap": 0.3, "ap50": 1.0, "ap75": 0.0}, abs=1e-6)


def test_a_wrong_class_and_a_missed_object_are_wrong() -> None:
    assert measured([seen()], [found(BOXES, 2 - KINDS)]).boxes["ap50"] == 0
    one = measured([seen()], [found(BOXES[:1], KINDS[:1] + 1)])
    assert one.boxes["ap50"] == pytest.approx(0.5)  # the mean over both classes
    assert measured([seen()], [found(BOXES[:0], KINDS[:0])]).boxes["ap50"] == 0


def test_what_is_ignored_is_neither_missed_nor_found() -> None:
    views = [seen(), seen((True, False))]
    both = found(BOXES, KINDS + 1)
    without = found(BOXES[1:], KINDS[1:] + 1)
    for second in (both, without):
        assert measured(views, [both, second]).boxes["ap"] == pytest.approx(1.0)
    with pytest.raises(InvalidInput, match="its images have no objects"):
        measured([seen((True, True))], [both])


def test_masks_are_measured_beside_boxes() -> None:
    half = found(BOXES, KINDS + 1)
    half["masks"] = half["masks"].clone()
    half["masks"][:, :, :, :5] = 0
    half["masks"][1, :, 30:35] = 0  # the mask has 0.83 of its box, and the other 0.75
    result = measured([seen(masks=True)], [half], masks=True)
    assert result.boxes["ap75"] == pytest.approx(1.0)
    assert result.masks is not None
    # 0.75 and 0.83: right at six and seven of the ten thresholds.
    assert result.masks["ap"] == pytest.approx((0.6 + 0.7) / 2, abs=1e-6)
    assert result.masks["ap75"] == pytest.approx(1.0)


def test_an_image_that_cannot_be_read_is_counted() -> None:
    network = Found([found(BOXES, KINDS + 1)])
    batches = [BoxedBatch([seen()], (1, 2))]
    assert measure_detection(network, batches, False, CPU).corrupt == (1, 2)
    with pytest.raises(InvalidInput, match="none of 2 images can be read"):
        measure_detection(network, [BoxedBatch([], (1, 2))], False, CPU)


def test_the_learning_rate_is_that_of_the_paper() -> None:
    """Appendix C.3: 24,000 and 90,000 steps."""
    c4, fpn = SCHEDULES["c4"], SCHEDULES["fpn"]
    steps = [0, 500, 1000, 17_999, 18_000, 21_999, 22_000]
    rates = [c4.factor(step, 24_000) for step in steps]
    assert rates == pytest.approx([0.333, 0.6665, 1, 1, 0.1, 0.1, 0.01])
    rates = [fpn.factor(step, 90_000) for step in (50, 59_999, 60_000, 80_000)]
    assert rates == pytest.approx([1, 1, 0.1, 0.01])
    assert fpn.factor(0, 90_000) < 0.01
    assert fpn.factor(0, 1) == 1  # a training of one step has no warm-up


def protocol(**changes: object) -> DetectionProtocol:
    fields = {"name": "detection", "batch_size": 4}
    return DetectionProtocol.model_validate(fields | changes)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_detector(monkeypatch, width=64, regions=16, proposals=(200, 50))


def drawn(root: Path, name: str, count: int, seed: int) -> BoxedImages:
    save_coco(root / name, root / f"{name}.json", count, seed)
    spec = {"source": "detection_folder", "layout": "coco", "path": name}
    data = DetectionData.model_validate(spec | {"annotations": f"{name}.json"})
    return open_boxed_images(data, under(root))


class Shapes:
    """Drawn objects to train and to test on."""

    def __init__(self, root: Path) -> None:
        self.train = drawn(root, "train", 32, 0)
        self.test = drawn(root, "test", 24, 1)

    def trained(self, encoder: nn.Module, how: DetectionProtocol) -> nn.Module:
        self.train.masks = self.test.masks = how.masks
        batches = random_boxed_batches(
            self.train,
            image_size=SIZE,
            batch_size=how.batch_size,
            seed=how.seed,
            epochs=how.epochs,
            loaders=0,
            interpolation="bilinear",
        )
        steps = batch_count(len(self.train), how.epochs, how.batch_size)
        network, corrupt = train_detector(encoder, batches, steps, 2, how, CPU)
        assert corrupt == ()
        return network

    def plain(self) -> Iterator[BoxedBatch]:
        return plain_boxed_batches(
            self.test, image_size=SIZE, batch_size=8, loaders=0, interpolation="bilinear"
        )

    def ap50(self, network: nn.Module) -> float:
        return measure_detection(network, self.plain(), False, CPU).boxes["ap50"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Shapes:
    return Shapes(tmp_path_factory.mktemp("shapes"))


def untrained(shapes: Shapes) -> nn.Module:
    torch.manual_seed(0)
    encoder = build_backbone(Backbone(name="resnet10"), SIZE)
    calibrate_batchnorm(encoder, shapes.train, SIZE, CPU)
    return encoder


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("head", ["fpn", "c4"])
def test_boxes_are_exact_if_the_network_computes_in_bf16(shapes: Shapes, head: str) -> None:
    """In bfloat16, which has 8 bits, no corner beyond 256 would be odd, or between two pixels."""
    how = protocol(epochs=1, head=head)
    context = partial(autocast, "bf16", CPU)
    batches = random_boxed_batches(
        shapes.train, image_size=SIZE, batch_size=4, seed=0, epochs=1, loaders=0,
        interpolation="bilinear",
    )  # fmt: skip
    network, _ = train_detector(untrained(shapes), batches, 8, 2, how, CPU, autocast=context)
    seen: list[torch.dtype] = []
    assert isinstance(network, GeneralizedRCNN)
    for part in (network.backbone, network.roi_heads.box_head):
        layers = (each for each in part.modules() if isinstance(each, nn.Conv2d | nn.Linear))
        next(layers).register_forward_hook(lambda *call: seen.append(call[2].dtype))
    network.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (found,) = network([torch.rand(3, 600, 600, generator=torch.Generator().manual_seed(0))])
    assert set(seen) == {torch.bfloat16}
    boxes = found["boxes"]
    assert boxes.dtype == torch.float32
    assert (boxes[boxes > 256] % 1 != 0).any()


@pytest.mark.usefixtures("small")
def test_a_trained_encoder_is_told_from_an_untrained_one(shapes: Shapes) -> None:
    """The trained encoder has found the objects before; the heads on it are new ones."""
    encoder = untrained(shapes)
    assert shapes.ap50(shapes.trained(encoder, protocol(epochs=7, learning_rate=0.05))) > 0.7
    short = protocol(epochs=3, seed=1)
    baseline = shapes.ap50(shapes.trained(untrained(shapes), short))
    assert shapes.ap50(shapes.trained(encoder, short)) > baseline + 0.2


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("fields", [{"head": "c4"}, {"masks": True}])
def test_a_seed_makes_the_same_network(shapes: Shapes, fields: dict[str, object]) -> None:
    few = Shapes.__new__(Shapes)
    few.train, few.test = shapes.train.only(range(8)), shapes.test

    def weights(seed: int) -> Tensor:
        encoder = untrained(shapes)
        before = torch.cat([each.detach().flatten() for each in encoder.parameters()])
        few.trained(encoder, protocol(epochs=1, seed=seed, **fields))
        after = torch.cat([each.detach().flatten() for each in encoder.parameters()])
        assert not torch.equal(before, after)
        return after

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.usefixtures("small")
def test_images_without_objects_are_background() -> None:
    empty = BoxedView(
        torch.zeros(3, SIZE, SIZE, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, dtype=torch.bool),
        torch.zeros(0, SIZE, SIZE, dtype=torch.uint8),
    )
    encoder = build_backbone(Backbone(name="resnet10"), SIZE)
    how = protocol(masks=True)
    network, _ = train_detector(encoder, [BoxedBatch([empty, empty], ())], 1, 2, how, CPU)
    assert all(each.isfinite().all() for each in network.parameters())


@pytest.mark.usefixtures("small")
def test_what_cannot_be_trained_on_is_named() -> None:
    encoder = build_backbone(Backbone(name="resnet10"), SIZE)
    with pytest.raises(InvalidInput, match="no batch has two images that can be read"):
        train_detector(encoder, [BoxedBatch([seen()], (1,))], 1, 2, protocol(), CPU)
    with torch.no_grad():
        encoder.layer1[0].conv1.weight.fill_(float("nan"))  # type: ignore[index, union-attr]
    with pytest.raises(InvalidInput, match=r"the loss of step 0 is not finite"):
        train_detector(encoder, [BoxedBatch([seen(), seen()], ())], 1, 2, protocol(), CPU)


@pytest.mark.parametrize("masks", [False, True])
def test_the_figure_shows_objects_above_and_detections_below(masks: bool) -> None:
    unsure = found(BOXES, KINDS + 1, torch.tensor([0.9, 0.4]))
    unsure["masks"] = unsure["masks"][:, 0] > 0.5
    if not masks:
        del unsure["masks"]
    example = DetectionExample(seen(masks=masks), unsure)
    content = detection_picture([example, example], ("disc", "square"))
    picture = np.asarray(Image.open(io.BytesIO(content)))
    assert picture.shape == (2 * SIDE + 12, 2 * SIDE + 12, 3)
    upper, lower = (
        picture[4 : 4 + SIDE, 4 : 4 + SIDE],
        picture[8 + SIDE : 8 + 2 * SIDE, 4 : 4 + SIDE],
    )

    def coloured(part: np.ndarray, colour: tuple[int, int, int]) -> bool:
        return bool((part == colour).all(axis=2).any())

    red, lime = (255, 0, 0), (0, 255, 0)
    assert [coloured(upper, red), coloured(upper, lime)] == [True, True]
    assert [coloured(lower, red), coloured(lower, lime)] == [True, False]
