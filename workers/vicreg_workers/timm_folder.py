"""Writes an encoder as timm's folders are: ``config.json`` and ``model.safetensors``.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it, and so do ``transformers``
(its ``TimmWrapperModel``, by ``AutoModel.from_pretrained``) and both from the Hugging Face Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vicreg_platform.specs import Backbone
from vicreg_workers.encoder import Published
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import backbone_state

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_TRANSFORMERS = {"vit_s": "vit_small_patch16_224", "vit_b": "vit_base_patch16_224"}
_RESIDUAL = ("resnet", "wide_resnet", "resnext")
_RENAMED = (
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^class_token$", "cls_token"),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
"""Parameter names of torchvision's vision transformer, and of timm's."""


@dataclass(frozen=True)
class Architecture:
    """What timm calls a backbone, and how it normalises images."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """What ``timm.create_model`` is given beside the name."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def architecture_of(spec: Backbone, image_size: int) -> Architecture:
    """The network of timm that computes what a backbone does.

    Args:
        spec: the backbone.
        image_size: side of its images, in pixels.

    Raises:
        UserFailure: there is none.
    """
    if spec.library == "timm":
        return _of_timm(spec, image_size)
    name = spec.name.removeprefix("torchvision/")
    if spec.library is None and spec.is_transformer:
        options = {"img_size": image_size, "patch_size": spec.patch_size}
        return Architecture(_TRANSFORMERS[name], options)
    if not name.startswith(_RESIDUAL):
        raise UserFailure(
            f"timm has no network that computes what {spec.name} does: export it to a file "
            "(.safetensors, .pth, .pt or .onnx)"
        )
    if spec.stem == "cifar":
        raise UserFailure(
            f"timm has no {spec.name} with the cifar stem: export it to a file, such as .pt or "
            ".onnx, which hold the network too"
        )
    if name == "resnet10":
        return Architecture("resnet18", {"layers": [1, 1, 1, 1]})
    return Architecture(name)


def _of_timm(spec: Backbone, image_size: int) -> Architecture:
    import timm

    name = spec.name.removeprefix("timm/")
    config = timm.get_pretrained_cfg(name)
    architecture = name.partition(".")[0]
    if config is None:
        return Architecture(architecture)
    options = {"img_size": image_size} if config.fixed_input_size else {}
    return Architecture(architecture, options, tuple(config.mean), tuple(config.std))


def write_timm_folder(encoder: Published, folder: Path) -> Callable[[Tensor], Tensor]:
    """Write an encoder for timm.

    Args:
        encoder: what to write.
        folder: an existing folder.

    Returns:
        What the folder computes, as timm loads it, of images that are normalised as this platform
        does, ``[N, 3, S, S]`` to ``[N, F]``.

    Raises:
        UserFailure: timm has no such network.
    """
    import timm

    made = architecture_of(encoder.spec, encoder.image_size)
    weights = backbone_state(encoder.backbone)
    if encoder.spec.library is None and encoder.spec.is_transformer:
        weights = {_timm_name(name): tensor for name, tensor in weights.items()}
    network = timm.create_model(made.name, num_classes=0, **made.options)
    # transformers refuses a file that does not say of which framework it is.
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = _config(made, network, encoder.image_size)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    shift, scale = _normalisation(made)
    return lambda images: loaded((images - shift) / scale)


def _timm_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _config(made: Architecture, network: nn.Module, image_size: int) -> dict[str, Any]:
    """What ``timm.models.save_config_for_hf`` would write, with this platform's images.

    timm's own image transform is then that of an evaluation here.
    """
    known: Any = network.pretrained_cfg
    config: dict[str, Any] = {
        "architecture": made.name,
        "num_classes": 0,
        "num_features": network.num_features,
        "pretrained_cfg": {
            "tag": "vicreg",
            "custom_load": False,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": "img_size" in made.options,
            "interpolation": "bicubic",
            "crop_pct": 1.0 if image_size <= 64 else 0.875,
            "crop_mode": "center",
            "mean": list(made.mean),
            "std": list(made.std),
            "num_classes": 0,
            "pool_size": None,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
    }
    if made.options:
        config["model_args"] = made.options
    return config


def _normalisation(made: Architecture) -> tuple[Tensor, Tensor]:
    """``(x - shift) / scale`` turns this platform's normalisation of images into timm's."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    shift, scale = (torch.tensor(made.mean) - mean) / std, torch.tensor(made.std) / std
    return shift.view(1, 3, 1, 1), scale.view(1, 3, 1, 1)
