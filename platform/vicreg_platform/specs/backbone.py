"""The backbone's architecture."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vicreg_platform.specs.base import CrossFieldError, SpecModel


class Backbone(SpecModel):
    """A residual network or a vision transformer with torchvision's parameter names."""

    name: Literal[
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
    ] = "resnet18"
    """``resnet10`` has one block per stage; the other residual networks are torchvision's."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """For residual networks. ``imagenet``: a 7×7 convolution with stride 2, then pooling;
    ``cifar``: a 3×3 convolution without pooling."""
    patch_size: int = Field(default=16, ge=1, le=64)
    """For vision transformers: side of a patch, in pixels."""

    @property
    def is_transformer(self) -> bool:
        """Whether it is a vision transformer, which accepts images of one size only."""
        return self.name.startswith("vit_")

    @model_validator(mode="after")
    def _of_its_family(self) -> Backbone:
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
    if image_size >= 32 or backbone.stem == "cifar":
        return []
    text = f"{image_size} pixels are too few for the imagenet stem: use 32 or more, or {field}.stem"
    return [((size_field, f"{field}.stem"), f"{text} cifar")]
