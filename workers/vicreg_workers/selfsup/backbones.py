"""Encoders, with torchvision's parameter names."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from vicreg_platform.specs import Backbone

_RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
}


def build_backbone(spec: Backbone) -> nn.Module:
    """A freshly initialised encoder: images ``[N, 3, H, W]`` to representations ``[N, F]``.

    The last BatchNorm of every residual block starts at zero, as in the authors' code
    (``zero_init_residual=True`` in ``main_vicreg.py``). The classifier is the identity.
    """
    block, layers = _RESNETS[spec.name]
    network: nn.Module = ResNet(block, layers, zero_init_residual=True)
    network.fc = nn.Identity()
    if spec.stem == "cifar":
        # Chen et al. 2020 (SimCLR), Appendix B.9.
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    return network


def representation_size(spec: Backbone) -> int:
    """F, the width of the representation."""
    block, _ = _RESNETS[spec.name]
    return 512 * int(block.expansion)


def backbone_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's ``state_dict`` on the CPU, in torchvision's names and in plain memory."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()
    }
