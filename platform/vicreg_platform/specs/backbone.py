"""The backbone's architecture."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from vicreg_platform.specs.base import CrossFieldError, SpecModel

OWN = (
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "vit_s",
    "vit_b",
)
LIBRARIES = ("timm", "torchvision")
_OF_LIBRARY = rf"^({'|'.join(LIBRARIES)})/[A-Za-z0-9_.-]{{1,100}}$"


def _known(name: str) -> str:
    if name in OWN or re.match(_OF_LIBRARY, name):
        return name
    nearest = difflib.get_close_matches(name, OWN, n=1)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
    raise ValueError(
        f"must be one of {', '.join(OWN)}, or a network of a library, such as "
        f"timm/convnext_tiny or torchvision/regnet_y_400mf{hint}"
    )


BackboneName = Annotated[
    str,
    AfterValidator(_known),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(OWN), "type": "string"},
                {"pattern": _OF_LIBRARY, "type": "string"},
            ]
        }
    ),
]


class Backbone(SpecModel):
    """A residual network or a vision transformer, or a network of timm or torchvision."""

    name: BackboneName = "resnet18"
    """``resnet10`` has one block per stage; the other residual networks are torchvision's.
    ``timm/<name>`` and ``torchvision/<name>`` are the networks of these libraries, such as
    ``timm/convnext_tiny``, in the versions that the workers have."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """For the platform's residual networks. ``imagenet``: a 7×7 convolution with stride 2, then
    pooling; ``cifar``: a 3×3 convolution without pooling."""
    patch_size: int = Field(default=16, ge=1, le=64)
    """For ``vit_s`` and ``vit_b``: side of a patch, in pixels."""
    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Stochastic depth, for networks of a library that have it: the rate of timm's
    ``drop_path_rate`` or torchvision's ``stochastic_depth_prob``, which is that of the last
    block (Huang et al. 2016)."""

    @property
    def is_transformer(self) -> bool:
        """Whether it is a vision transformer, which accepts images of one size only."""
        return self.name.startswith("vit_")

    @property
    def is_residual(self) -> bool:
        """Whether it is a residual network of the platform's or of torchvision's."""
        name = self.name.removeprefix("torchvision/")
        return name.startswith(("resnet", "wide_resnet", "resnext"))

    @property
    def library(self) -> str | None:
        """The library that the network is from; None for the platform's own."""
        library, separator, _ = self.name.partition("/")
        return library if separator else None

    @model_validator(mode="after")
    def _of_its_family(self) -> Backbone:
        if self.library is None and self.drop_path:
            text = f"{self.name} has no stochastic depth: use a network of timm or torchvision"
            raise CrossFieldError([(("drop_path", "name"), text)])
        if self.library is not None and self.stem != "imagenet":
            raise CrossFieldError([(("stem",), f"{self.name} has a stem of its own")])
        if self.is_transformer and self.stem != "imagenet":
            raise CrossFieldError([(("stem",), f"{self.name} has patches instead of a stem")])
        if not self.is_transformer and self.patch_size != 16:
            raise CrossFieldError([(("patch_size",), f"{self.name} has a stem instead of patches")])
        return self


def image_faults(
    field: str, backbone: Backbone, image_size: int, size_field: str = "data.image_size"
) -> list[tuple[tuple[str, ...], str]]:
    """Why a backbone cannot process images of a size, for a ``CrossFieldError``.

    Args:
        field: the path of the backbone in the spec.
        backbone: the backbone.
        image_size: in pixels.
        size_field: the path of the size.
    """
    if backbone.is_transformer:
        if image_size % backbone.patch_size == 0:
            return []
        fields = (f"{field}.patch_size", size_field)
        return [
            (fields, f"{image_size} pixels cannot be cut into patches of {backbone.patch_size}")
        ]
    if image_size >= 32 or backbone.stem == "cifar" or backbone.library is not None:
        return []
    text = f"{image_size} pixels are too few for the imagenet stem: use 32 or more, or {field}.stem"
    return [((size_field, f"{field}.stem"), f"{text} cifar")]
