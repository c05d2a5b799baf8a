"""The encoder's architecture."""

from __future__ import annotations

from typing import Literal

from vicreg_platform.specs.base import SpecModel


class Backbone(SpecModel):
    """A residual network with torchvision's parameter names."""

    name: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"] = "resnet18"
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """``imagenet``: 7×7 convolution with stride 2, then pooling; ``cifar``: 3×3, no pooling."""
