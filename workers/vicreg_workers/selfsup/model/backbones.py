"""Builds backbones: residual networks, transformers, and any network of timm or torchvision."""

from __future__ import annotations

import difflib
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from vicreg_platform.specs import Backbone
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD

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
    representation of a vision transformer is its class token after the last norm, and that of
    timm's networks what timm pools. Images are normalised as for ImageNet: a network that was
    made for another normalisation converts them.

    Args:
        spec: the architecture.
        image_size: H and W in pixels. A vision transformer takes only this size, a residual
            network any.

    Raises:
        InvalidInput: timm or torchvision has no such network, or it does not take such images.
    """
    if spec.library is not None:
        return _of_library(spec, image_size)
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


def representation_size(backbone: nn.Module, image_size: int) -> int:
    """The width F of the representation of images of a size, in pixels."""
    if isinstance(backbone, ResNet):
        return int(backbone.inplanes)
    if isinstance(backbone, VisionTransformer):
        return int(backbone.hidden_dim)
    return int(_representation(backbone, image_size).shape[1])


def _of_library(spec: Backbone, image_size: int) -> nn.Module:
    build = _of_timm if spec.library == "timm" else _of_torchvision
    try:
        backbone = build(spec, image_size)
        shape = _representation(backbone, image_size).shape
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InvalidInput(
            f"backbone.name: {spec.name} does not take images of {image_size} pixels"
            f"{' with a drop_path' if spec.drop_path else ''}: {text}"
        ) from None
    if len(shape) != 2:
        raise InvalidInput(
            f"backbone.name: {spec.name} makes {list(shape)} of an image, not one representation"
        )
    return backbone


def _of_timm(spec: Backbone, image_size: int) -> nn.Module:
    # Importing it takes a second, and only a run that uses it needs to.
    import timm

    name = spec.name.removeprefix("timm/")
    if not timm.is_model(name):
        raise _unknown(spec.name, [f"timm/{each}" for each in timm.list_models()])
    config = timm.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    options: dict[str, Any] = {"img_size": image_size} if fixed else {}
    if spec.drop_path:
        options["drop_path_rate"] = spec.drop_path
    backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    if config is not None:
        _renormalise(backbone, tuple(config.mean), tuple(config.std))
    return backbone


def _of_torchvision(spec: Backbone, image_size: int) -> nn.Module:
    name = spec.name.removeprefix("torchvision/")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown(spec.name, [f"torchvision/{each}" for each in known])
    options: dict[str, Any] = {"weights": None}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    elif name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    if spec.drop_path:
        options["stochastic_depth_prob"] = spec.drop_path
    backbone: nn.Module = torchvision.models.get_model(name, **options)
    classifier = next(
        path
        for path, module in reversed(list(backbone.named_modules()))
        if isinstance(module, (nn.Linear, nn.Conv2d)) and 1000 in module.weight.shape[:1]
    )
    backbone.set_submodule(classifier, nn.Identity())
    return backbone


def _unknown(name: str, known: list[str]) -> InvalidInput:
    nearest = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return InvalidInput(f"backbone.name: there is no {name} here{hint}")


def _renormalise(backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Have a backbone convert images from ImageNet's normalisation to its own."""
    if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
        return
    scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
    shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)

    # As a hook, it leaves the names of the weights as timm knows them.
    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images, *rest = inputs
        factor, offset = (
            each.to(images.device, images.dtype).view(1, 3, 1, 1) for each in (scale, shift)
        )
        return (images * factor + offset, *rest)

    backbone.register_forward_pre_hook(convert)


@torch.no_grad()
def _representation(backbone: nn.Module, image_size: int) -> Tensor:
    """Of one black image. The mode of the backbone is left as it was."""
    was_training = backbone.training
    device = next(backbone.parameters()).device
    representation: Tensor = backbone.eval()(
        torch.zeros(1, 3, image_size, image_size, device=device)
    )
    backbone.train(was_training)
    return representation


def backbone_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The backbone's ``state_dict`` on the CPU, contiguous, under its library's names."""
    return {
        name: tensor.detach().cpu().contiguous() for name, tensor in backbone.state_dict().items()
    }
