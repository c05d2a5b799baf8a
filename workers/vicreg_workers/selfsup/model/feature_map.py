"""An encoder's last feature map, before it is pooled to one representation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import DenseNet, RegNet, SwinTransformer, VisionTransformer
from torchvision.models.resnet import BasicBlock, ResNet

from vicreg_workers.selfsup.errors import InvalidInput

DILATED_STRIDE = 8
"""Pixels of the image for one of a dilated network's map, along each axis (Yu et al. 2017, arXiv
1705.09914; VICRegL's ``linear_r50_512x512_40k_voc12aug.py``: strides 1, 2, 1, 1)."""


def map_and_representation(backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Pass images through a backbone once.

    A residual network's map is that before its pooling; a vision transformer's is the tokens of
    its patches after the last norm.

    Args:
        backbone: a residual network or vision transformer of torchvision's classes, or a network
            of timm.
        images: ``[N, 3, S, S]``.

    Returns:
        The map ``[N, P, C]``, whose P places are a square grid by rows, and the representation
        ``[N, F]``.

    Raises:
        InvalidInput: the backbone has no such map.
    """
    if isinstance(backbone, ResNet):
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            x = stage(x)
        return _places(x), backbone.fc(torch.flatten(backbone.avgpool(x), 1))
    if isinstance(backbone, VisionTransformer):
        x = backbone._process_input(images)
        x = backbone.encoder(torch.cat([backbone.class_token.expand(len(x), -1, -1), x], dim=1))
        return x[:, 1:], backbone.heads(x[:, 0])
    forward_features: Any = getattr(backbone, "forward_features", None)
    if forward_features is None:
        raise _no_map(backbone)
    inputs: Any = (images,)
    for convert in backbone._forward_pre_hooks.values():
        inputs = convert(backbone, inputs)
    features = forward_features(*inputs)
    if not isinstance(features, Tensor):
        raise _no_map(backbone)
    forward_head: Any = backbone.forward_head
    representation: Tensor = forward_head(features)
    if features.ndim == 3:
        places = features[:, int(getattr(backbone, "num_prefix_tokens", 0)) :]
    elif getattr(backbone, "output_fmt", "NCHW") == "NHWC":
        places = features.flatten(1, 2)
    else:
        places = _places(features)
    return places, representation


@torch.no_grad()
def map_width(backbone: nn.Module, image_size: int) -> int:
    """The width C of a backbone's map. The mode of the backbone is left as it was.

    Raises:
        InvalidInput: the backbone has no such map.
    """
    was_training = backbone.training
    image = torch.zeros(1, 3, image_size, image_size)
    places, _ = map_and_representation(backbone.eval(), image)
    backbone.train(was_training)
    return int(places.shape[-1])


class FeatureMap(nn.Module):
    """From images ``[N, 3, S, S]`` to the backbone's last feature map ``[N, F, h, w]``.

    The map of a vision transformer is that of its patches after the last norm, without class and
    register tokens.

    Args:
        backbone: a network of ``build_backbone``; its weights and their names stay.
        image_size: S, in pixels.
        dilated: whether a residual network of torchvision's is dilated, see ``dilate``. Others are
            left as they are.

    Raises:
        InvalidInput: the backbone has no such map.
    """

    def __init__(self, backbone: nn.Module, image_size: int, dilated: bool = False) -> None:
        super().__init__()
        if dilated and isinstance(backbone, ResNet):
            dilate(backbone)
        self.backbone = backbone
        self._map = _map_of(backbone)
        self.train(backbone.training)
        self.width = self._width(image_size)
        """F."""

    def forward(self, images: Tensor) -> Tensor:
        """The map of each image."""
        return self._map(images)

    @torch.no_grad()
    def _width(self, image_size: int) -> int:
        was_training = self.training
        device = next(self.parameters()).device
        made = self.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
        self.train(was_training)
        if made.ndim != 4:
            raise _no_map(self.backbone)
        return int(made.shape[1])


def dilate(backbone: ResNet) -> None:
    """Replace the strides that would make the map too small by dilation, in place.

    The convolutions before a replaced stride see the same pixels as ever, those behind it the same
    distances: each weight stays where it was. As torchvision's ``replace_stride_with_dilation``,
    which its ResNets with basic blocks do not have.

    Args:
        backbone: a residual network of torchvision's or the platform's, with any stem.
    """
    first = backbone.conv1.stride[0]
    reduced = first if isinstance(backbone.maxpool, nn.Identity) else first * 2
    dilation = 1
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        before = dilation
        for place, block in enumerate(stage):
            convolution = block.conv1 if isinstance(block, BasicBlock) else block.conv2
            if place == 0:
                if reduced * convolution.stride[0] <= DILATED_STRIDE:
                    reduced *= convolution.stride[0]
                else:
                    dilation *= convolution.stride[0]
                    convolution.stride = (1, 1)
                    if block.downsample is not None:
                        block.downsample[0].stride = (1, 1)
            _spread(convolution, before if place == 0 else dilation)
            if isinstance(block, BasicBlock):
                _spread(block.conv2, dilation)


def _spread(convolution: nn.Conv2d, dilation: int) -> None:
    """Set the dilation of a 3×3 convolution."""
    convolution.dilation = (dilation, dilation)
    convolution.padding = (dilation, dilation)


def _map_of(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(backbone, ResNet | VisionTransformer) or hasattr(backbone, "forward_features"):
        return _Map(backbone)
    if isinstance(backbone, SwinTransformer):
        return nn.Sequential(backbone.features, backbone.norm, backbone.permute)
    if isinstance(backbone, DenseNet):
        return nn.Sequential(backbone.features, nn.ReLU())
    if isinstance(backbone, RegNet):
        return nn.Sequential(backbone.stem, backbone.trunk_output)
    features = getattr(backbone, "features", None)
    if isinstance(features, nn.Module):
        return features
    raise _no_map(backbone)


class _Map:
    """The map of ``map_and_representation``, as ``[N, C, h, h]``."""

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone

    def __call__(self, images: Tensor) -> Tensor:
        places, _ = map_and_representation(self._backbone, images)
        count, places_each, width = places.shape
        side = math.isqrt(places_each)
        if side * side != places_each:
            raise _no_map(self._backbone)
        return places.mT.reshape(count, width, side, side)


def _no_map(backbone: nn.Module) -> InvalidInput:
    return InvalidInput(
        f"the backbone, a {type(backbone).__name__}, has no feature map that can be used: take a "
        "residual network, a vision transformer, or a network such as timm/convnext_tiny"
    )


def _places(maps: Tensor) -> Tensor:
    """``[N, C, H, W]`` as ``[N, H * W, C]``."""
    return maps.flatten(2).transpose(1, 2)
