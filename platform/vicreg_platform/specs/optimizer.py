"""The optimisers that a pretraining can use, with their presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vicreg_platform.specs.base import SpecModel

LearningRate = Annotated[float, Field(gt=0.0, le=100.0)]
WeightDecay = Annotated[float, Field(ge=0.0, le=1.0)]

LARS_PRESETS: dict[str, dict[str, Any]] = {
    "vicreg": {
        "base_lr": 0.3,  # README of facebookresearch/vicreg: --base-lr 0.3 for 100 epochs
        "weight_decay": 1.0e-6,  # main_vicreg.py: --wd
        "momentum": 0.9,  # main_vicreg.py: LARS(momentum=0.9)
        "eta": 0.001,  # main_vicreg.py: LARS(eta=0.001)
        "clip": False,  # main_vicreg.py has no such limit
    },
    "cifar": {
        # scripts/pretrain/cifar/vicreg.yaml of vturrisi/solo-learn
        "base_lr": 0.3,  # optimizer.lr
        "weight_decay": 1.0e-4,  # optimizer.weight_decay
        "momentum": 0.9,  # solo/args/pretrain.py, since the recipe sets none
        "eta": 0.02,  # optimizer.kwargs.eta
        "clip": True,  # optimizer.kwargs.clip_lr
    },
}


class _Optimizer(SpecModel):
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """The learning rate of each block of the backbone is that of the block after it times this; the
    last block and the expander have the whole rate (Bao et al. 2022, BEiT). 1: all have."""


class Lars(_Optimizer):
    """Layer-wise adaptive rate scaling, as in the authors' ``main_vicreg.py``."""

    name: Literal["lars"] = "lars"
    preset: Literal["vicreg", "cifar"] = "vicreg"
    """``vicreg``: the authors' code; ``cifar``: small images and short runs (solo-learn)."""
    base_lr: LearningRate
    """The peak learning rate is ``base_lr * batch_size / 256``."""
    weight_decay: WeightDecay
    """Not applied to biases and BatchNorm parameters, as in the authors' code."""
    momentum: float = Field(ge=0.0, lt=1.0)
    """Share of the last update that the next one contains."""
    eta: float = Field(gt=0.0, le=1.0)
    """Trust coefficient."""
    clip: bool
    """Limit the scaled learning rate of a layer to the learning rate itself."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = LARS_PRESETS.get(str(data.get("preset")), LARS_PRESETS["vicreg"])
        return preset | data


class Sgd(_Optimizer):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    base_lr: LearningRate = 0.05
    """The peak learning rate is ``base_lr * batch_size / 256`` (0.05: Chen & He 2021)."""
    weight_decay: WeightDecay = 1.0e-4
    """Not applied to biases and normalisation parameters."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Share of the last update that the next one contains."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay, for transformers."""

    name: Literal["adamw"]
    base_lr: LearningRate = 5.0e-4
    """The peak learning rate is ``base_lr * batch_size / 256``."""
    weight_decay: WeightDecay = 0.05
    """Not applied to biases and normalisation parameters."""


def _name(value: Any) -> Any:
    return value.get("name", "lars") if isinstance(value, dict) else getattr(value, "name", None)


Optimizer = Annotated[
    Annotated[Lars, Tag("lars")] | Annotated[Sgd, Tag("sgd")] | Annotated[AdamW, Tag("adamw")],
    Discriminator(
        _name,
        custom_error_type="optimizer",
        custom_error_message="name must be one of: lars, sgd, adamw",
    ),
]
