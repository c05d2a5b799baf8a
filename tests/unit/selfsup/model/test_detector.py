"""The detector shares the encoder's weights, and its anchors suit the encoder's strides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.detector import build_detector

HEADS = [
    ("fpn", "resnet10"),
    ("c4", "resnet10"),
    ("fpn", "torchvision/resnext50_32x4d"),
    ("c4", "torchvision/resnet18"),
]


@pytest.mark.parametrize(("head", "name"), HEADS)
def test_every_residual_network_has_both_heads(head: str, name: str) -> None:
    backbone = build_backbone(Backbone(name=name), 64)
    detector = build_detector(backbone, 3, head).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        found = detector([torch.rand(3, 64, 96), torch.rand(3, 50, 40)])
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2
    shared = {id(parameter) for parameter in detector.parameters()}
    assert all(id(parameter) in shared for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("head", "stem", "sides"),
    [
        ("fpn", "imagenet", [[32], [64], [128], [256], [512]]),
        ("fpn", "cifar", [[8], [16], [32], [64], [128]]),
        ("c4", "imagenet", [[32, 64, 128, 256, 512]]),
        ("c4", "cifar", [[8, 16, 32, 64, 128]]),
    ],
)
def test_anchors_are_those_of_detectron2_at_the_usual_strides(
    head: str, stem: str, sides: list[list[int]]
) -> None:
    backbone = build_backbone(Backbone.model_validate({"name": "resnet10", "stem": stem}), 64)
    detector = build_detector(backbone, 3, head)  # type: ignore[arg-type]
    generator = detector.rpn.anchor_generator
    assert [list(each) for each in generator.sizes] == sides
    maps = detector.backbone(torch.zeros(1, 3, 256, 256))
    maps = list(maps.values()) if isinstance(maps, dict) else [maps]
    assert len(maps) == len(sides)
    strides = [256 // each.shape[-1] for each in maps]
    per_stride = 8 if head == "fpn" else 2
    assert [per_stride * stride for stride in strides] == [each[0] for each in sides]


def test_masks_are_probabilities_of_the_images_size() -> None:
    torch.manual_seed(0)
    detector = build_detector(build_backbone(Backbone(name="resnet10"), 64), 3, "fpn", masks=True)
    detector.roi_heads.score_thresh = 0.0
    with torch.no_grad():
        (found,) = detector.eval()([torch.rand(3, 64, 80)])
    assert found["masks"].shape == (len(found["boxes"]), 1, 64, 80)
    assert len(found["boxes"]) > 0


def test_images_are_normalised_and_not_resized() -> None:
    detector = build_detector(build_backbone(Backbone(name="resnet10"), 64), 3, "fpn")
    image = torch.rand(3, 40, 50)
    padded, _ = detector.transform([image])
    assert padded.tensors.shape == (1, 3, 64, 64)
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(padded.tensors[0, :, :40, :50], (image - mean) / std)
    assert not padded.tensors[0, :, 40:].any()


def test_another_network_is_named() -> None:
    backbone: nn.Module = build_backbone(Backbone(name="vit_s"), 64)
    with pytest.raises(InvalidInput, match=r"needs a residual network .* is a VisionTransformer"):
        build_detector(backbone, 3, "fpn")
