"""The networks of timm and torchvision are backbones: built, normalised, ordered, synchronised."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import list_models

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import build_backbone, representation_size
from vicreg_workers.selfsup.model.blocks import blocks_of, learning_factors, undecayed
from vicreg_workers.selfsup.model.match import match_weights
from vicreg_workers.selfsup.model.sync_batchnorm import has_batchnorm, synchronise_batchnorm

ONE_OF_EACH_FAMILY = [
    ("timm/convnext_atto", 64, 320),
    ("timm/vit_tiny_patch16_224", 64, 192),
    ("timm/mobilenetv3_small_050", 64, 1024),
    ("timm/resnet18d", 64, 512),
    ("timm/efficientnet_lite0", 64, 1280),
    ("torchvision/mobilenet_v2", 64, 1280),
    ("torchvision/mobilenet_v3_small", 64, 1024),
    ("torchvision/regnet_y_400mf", 64, 440),
    ("torchvision/shufflenet_v2_x0_5", 64, 1024),
    ("torchvision/squeezenet1_1", 64, 512),
    ("torchvision/densenet121", 64, 1024),
    ("torchvision/swin_t", 64, 768),
    ("torchvision/resnext50_32x4d", 64, 2048),
]


@pytest.mark.parametrize(("name", "size", "width"), ONE_OF_EACH_FAMILY)
def test_a_librarys_network_is_a_backbone(name: str, size: int, width: int) -> None:
    backbone = build_backbone(Backbone(name=name), size)
    assert representation_size(backbone, size) == width
    representation = backbone.eval()(torch.randn(2, 3, size, size))
    assert representation.shape == (2, width)
    blocks = blocks_of(backbone)
    assert set(blocks.values()) == set(range(max(blocks.values()) + 1))
    assert max(blocks.values()) >= 3


def test_every_classifier_of_torchvision_loses_its_classes() -> None:
    """The widths are those of the library's own last layers; only shapes are computed."""
    for name in list_models(module=torchvision.models):
        if "regnet" in name or name.startswith(("vgg", "vit_h", "vit_l")):
            continue  # not built without memory, or a gigabyte
        with torch.device("meta"):
            backbone = build_backbone.__globals__["_of_torchvision"](
                Backbone(name=f"torchvision/{name}"), 224
            )
        assert not any(1000 in parameter.shape[:1] for parameter in backbone.parameters()), name


def test_a_network_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="no timm/convnext_tinny here; did you mean timm/conv"):
        build_backbone(Backbone(name="timm/convnext_tinny"), 64)
    with pytest.raises(InvalidInput, match=r"did you mean torchvision/swin_t\b"):
        build_backbone(Backbone(name="torchvision/swint"), 64)


def test_images_that_a_network_does_not_take_are_named() -> None:
    with pytest.raises(InvalidInput, match="does not take images of 8 pixels: "):
        build_backbone(Backbone(name="timm/convnext_atto"), 8)
    with pytest.raises(InvalidInput, match="64 pixels with a drop_path: "):
        build_backbone(Backbone(name="torchvision/mobilenet_v2", drop_path=0.1), 64)


def test_stochastic_depth_drops_blocks_while_training() -> None:
    images = torch.randn(2, 3, 32, 32)
    plain = build_backbone(Backbone(name="timm/convnext_atto"), 32).train()
    dropping = build_backbone(Backbone(name="timm/convnext_atto", drop_path=0.9), 32).train()
    for block in dropping.modules():
        if isinstance(gamma := getattr(block, "gamma", None), nn.Parameter):
            nn.init.ones_(gamma)  # as small as it begins, it hides the blocks
    assert torch.equal(plain(images), plain(images))
    assert not torch.equal(dropping(images), dropping(images))


def test_a_networks_own_normalisation_is_honoured() -> None:
    """timm's vision transformers were trained on pixels normalised by 0.5, not as for ImageNet."""
    torch.manual_seed(0)
    backbone = build_backbone(Backbone(name="timm/vit_tiny_patch16_224"), 32).eval()
    own = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).eval()
    own.load_state_dict(backbone.state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(backbone((pixels - mean) / std), own((pixels - 0.5) / 0.5))


def test_timms_published_weights_fit_without_their_classifier() -> None:
    for name in ("resnet18", "convnext_atto"):
        backbone = build_backbone(Backbone(name=f"timm/{name}"), 64)
        match = match_weights(timm.create_model(name).state_dict(), backbone)
        assert (match.misfits, match.share) == ((), 1.0)
    # A ResNet of timm has torchvision's names.
    ours = build_backbone(Backbone(name="resnet18"), 64)
    assert match_weights(timm.create_model("resnet18").state_dict(), ours).misfits == ()


@pytest.mark.parametrize("name", ["resnet18", "vit_s", "timm/vit_small_patch16_224"])
def test_the_rate_falls_from_the_last_block_to_the_first(name: str) -> None:
    backbone = build_backbone(Backbone(name=name), 32)
    named = dict(backbone.named_parameters())
    factors = learning_factors(backbone, 0.5)
    blocks = 8 if name == "resnet18" else 12
    first, last = {
        "resnet18": ("conv1.weight", "layer4.1.conv2.weight"),
        "vit_s": ("encoder.pos_embedding", "encoder.layers.encoder_layer_11.mlp.3.weight"),
        "timm/vit_small_patch16_224": ("pos_embed", "blocks.11.mlp.fc2.weight"),
    }[name]
    assert factors[named[first]] == 0.5**blocks
    assert factors[named[last]] == 1.0
    assert sorted(set(factors.values())) == [0.5**n for n in range(blocks, -1, -1)]


def test_a_network_says_what_is_not_decayed() -> None:
    backbone = build_backbone(Backbone(name="timm/vit_tiny_patch16_224"), 32)
    named = dict(backbone.named_parameters())
    assert undecayed(backbone) == {named["cls_token"], named["pos_embed"]}


def test_a_batchnorm_with_an_activation_keeps_it_when_synchronised() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(Backbone(name="timm/mobilenetv3_small_050"), 32).train()
    images = torch.randn(4, 3, 32, 32)
    before = backbone(images)
    names = list(backbone.state_dict())
    synchronise_batchnorm(backbone)
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(images), before)


def test_a_convnext_has_no_batchnorm() -> None:
    assert not has_batchnorm(build_backbone(Backbone(name="timm/convnext_atto"), 32))
    assert has_batchnorm(build_backbone(Backbone(name="resnet10"), 32))
