"""The last feature map of every kind of encoder."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer, resnet50, squeezenet1_1
from torchvision.models.resnet import ResNet

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.model.feature_map import (
    FeatureMap,
    dilate,
    map_and_representation,
    map_width,
)


def noise(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "stem", "size", "stride"),
    [
        ("resnet10", "imagenet", 64, 32),
        ("resnet10", "cifar", 32, 8),
        ("torchvision/resnext50_32x4d", "imagenet", 64, 32),
    ],
)
@torch.no_grad()
def test_the_pooled_map_is_the_representation(name: str, stem: str, size: int, stride: int) -> None:
    backbone = build_backbone(Backbone.model_validate({"name": name, "stem": stem}), size).eval()
    expected = backbone(noise(size))
    network = FeatureMap(backbone, size).eval()
    made = network(noise(size))
    assert made.shape == (2, network.width, size // stride, size // stride)
    torch.testing.assert_close(made.mean(dim=(2, 3)), expected)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("vit_s", 32, 2),
        ("torchvision/regnet_y_400mf", 64, 2),
        ("torchvision/mobilenet_v3_small", 64, 2),
        ("timm/convnext_atto", 64, 2),
        ("timm/vit_tiny_patch16_224", 32, 2),
        ("timm/swin_tiny_patch4_window7_224", 64, 2),
    ],
)
@torch.no_grad()
def test_other_families(name: str, size: int, side: int) -> None:
    network = FeatureMap(build_backbone(Backbone(name=name), size), size).eval()
    assert network(noise(size)).shape == (2, network.width, side, side)


@torch.no_grad()
def test_the_map_of_a_transformer_is_that_of_its_patches() -> None:
    """Each patch is at its place."""
    backbone = build_backbone(Backbone(name="vit_s", patch_size=8), 16).eval()
    assert isinstance(backbone, VisionTransformer)
    made = FeatureMap(backbone, 16).eval()(noise(16))
    tokens = backbone.conv_proj(noise(16)).flatten(2).mT
    tokens = torch.cat([backbone.class_token.expand(2, -1, -1), tokens], dim=1)
    tokens = backbone.encoder(tokens)
    torch.testing.assert_close(made[:, :, 0, 1], tokens[:, 2])
    torch.testing.assert_close(made[:, :, 1, 0], tokens[:, 3])


def test_a_dilated_network_has_the_same_weights_and_a_stride_of_8() -> None:
    for name, stem in (("resnet18", "imagenet"), ("resnet50", "imagenet"), ("resnet18", "cifar")):
        plain = build_backbone(Backbone.model_validate({"name": name, "stem": stem}), 64)
        before = deepcopy(plain.state_dict())
        network = FeatureMap(plain, 64, dilated=True).eval()
        assert network(noise(64)).shape[2:] == (8, 8)
        after = network.backbone.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in before)


@torch.no_grad()
def test_dilation_is_that_of_torchvision() -> None:
    """torchvision has it for networks with bottlenecks."""
    torch.manual_seed(0)
    theirs = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = resnet50().eval()
    ours.load_state_dict(theirs.state_dict())
    dilate(ours)
    theirs.fc = ours.fc = torch.nn.Identity()
    torch.testing.assert_close(ours(noise(64)), theirs(noise(64)))


@torch.no_grad()
def test_a_dilated_map_holds_the_plain_one() -> None:
    """Every fourth place of it, where no padding is near, is what the plain network computes."""
    plain = build_backbone(Backbone(name="resnet10"), 512).eval()
    assert isinstance(plain, ResNet)
    torch.manual_seed(0)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.fill_(1.0)  # those that start at zero would hide the second convolutions
    expected = FeatureMap(plain, 512)(noise(512, 1))
    made = FeatureMap(deepcopy(plain), 512, dilated=True).eval()(noise(512, 1))
    torch.testing.assert_close(made[:, :, ::4, ::4][:, :, 4:-4, 4:-4], expected[:, :, 4:-4, 4:-4])


def test_a_network_without_a_map_is_refused() -> None:
    backbone = build_backbone(Backbone(name="torchvision/googlenet"), 64)
    with pytest.raises(InvalidInput, match="GoogLeNet, has no feature map"):
        FeatureMap(backbone, 64)


@pytest.mark.parametrize(
    ("spec", "size", "places", "width"),
    [
        (Backbone(name="resnet10", stem="cifar"), 16, 4, 512),
        (Backbone(name="resnet50"), 64, 4, 2048),
        (Backbone(name="vit_s", patch_size=8), 32, 16, 384),
        (Backbone(name="timm/convnext_atto"), 64, 4, 320),
        (Backbone(name="timm/vit_tiny_patch16_224"), 64, 16, 192),
        (Backbone(name="timm/swin_tiny_patch4_window7_224"), 64, 4, 768),
    ],
)
def test_the_representation_beside_a_map_is_the_backbones(
    spec: Backbone, size: int, places: int, width: int
) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(spec, size)
    assert map_width(backbone, size) == width
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        maps, representation = map_and_representation(backbone.eval(), images)
        torch.testing.assert_close(representation, backbone(images))
    assert maps.shape == (2, places, width)
    if spec.name.startswith("resnet"):
        torch.testing.assert_close(maps.mean(dim=1), representation)


def test_places_lie_by_rows() -> None:
    """What changes in the lower left quarter of an image changes the place there most."""
    torch.manual_seed(0)
    for name in ("resnet10", "timm/convnext_atto", "timm/swin_tiny_patch4_window7_224"):
        backbone = build_backbone(Backbone(name=name), 64).eval()
        images = torch.randn(1, 3, 64, 64)
        other = images.clone()
        other[:, :, 32:, :32] += 3
        with torch.no_grad():
            first, second = (map_and_representation(backbone, each)[0] for each in (images, other))
        change = (first - second).norm(dim=2)[0]
        assert int(change.argmax()) == 2, name


def test_a_network_without_a_map_is_named() -> None:
    backbone: nn.Module = squeezenet1_1()
    with pytest.raises(InvalidInput, match="a SqueezeNet, has no feature map"):
        map_width(backbone, 64)
