"""Builds backbones, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from vicreg_platform.specs import Backbone

_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int], int]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1], 64),
    "resnet18": (BasicBlock, [2, 2, 2, 2], 64),
    "resnet34": (BasicBlock, [3, 4, 6, 3], 64),
    "resnet50": (Bottleneck, [3, 4, 6, 3], 64),
    "resnet101": (Bottleneck, [3, 4, 23, 3], 64),
    "resnet152": (Bottleneck, [3, 8, 36, 3], 64),
    "wide_resnet50_2": (Bottleneck, [3, 4, 6, 3], 128),
    "wide_resnet101_2": (Bottleneck, [3, 4, 23, 3], 128),
}
"""Block, blocks per stage, and bottleneck width per 64 channels (torchvision)."""
_TRANSFORMERS = {"vit_s": (384, 6), "vit_b": (768, 12)}
"""Width and heads. All have 12 layers, and 4 × width in between (Touvron et al. 2021, table 1)."""


def build_backbone(spec: Backbone, image_size: int) -> nn.Module:
    """Build an untrained encoder: images ``[N, 3, H, W]`` to representations ``[N, F]``.

    The last BatchNorm of every residual block starts at zero, as in the authors' code
    (``zero_init_residual=True`` in ``main_vicreg.py``). The classifier is the identity; the
    representation of a vision transformer is its class token after the last norm.

    Args:
        spec: the architecture.
        image_size: H and W in pixels. A vision transformer takes only this size, a residual
            network any.
    """
    if spec.is_transformer:
        width, heads = _TRANSFORMERS[spec.name]
        transformer: nn.Module = VisionTransformer(
            image_size,
            spec.patch_size,
            num_layers=12,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
        )
        transformer.heads = nn.Identity()
        return transformer
    block, layers, width = _RESNETS[spec.name]
    network: nn.Module = ResNet(block, layers, zero_init_residual=True, width_per_group=width)
    network.fc = nn.Identity()
    if spec.stem == "cifar":
        # Chen et al. 2020 (SimCLR), Appendix B.9.
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def representation_size(spec: Backbone) -> int:
    """The width F of the representation."""
    if spec.is_transformer:
        return _TRANSFORMERS[spec.name][0]
    block, *_ = _RESNETS[spec.name]
    return 512 * int(block.expansion)


def backbone_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's ``state_dict`` on the CPU, contiguous, under torchvision's names."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()
    }


def backbone_weights(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extract the backbone's ``state_dict`` from weights in any published form.

    Args:
        weights: a ``state_dict`` of torchvision, with or without its classifier (``fc``,
            ``heads``); the authors' ``resnet50.pth``, which has none; or their full checkpoint,
            which holds it under ``model`` as ``module.backbone.…``, beside the projector
            (written by ``main_vicreg.py``, read by ``evaluate.py``).
    """
    if isinstance(weights.get("model"), Mapping):
        weights = weights["model"]
    names = {name: name.removeprefix("module.").removeprefix("backbone.") for name in weights}
    others = ("projector.", "expander.", "predictor.", "second.", "fc.", "heads.")
    return {short: weights[name] for name, short in names.items() if not short.startswith(others)}
