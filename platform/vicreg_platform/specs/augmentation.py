"""How the two views of an image are augmented.

The presets hold the probabilities and strengths of the authors' ``augmentations.py``
(facebookresearch/vicreg), of the paper's Appendix C.1, and of solo-learn's CIFAR recipe
(``scripts/pretrain/cifar/vicreg.yaml``). A field that is given overrides the preset's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from vicreg_platform.specs.base import Probability, SpecModel
from vicreg_platform.specs.data import ImageSize

Strength = Annotated[float, Field(ge=0.0, le=10.0)]
PerView = tuple[Probability, Probability]
Scale = tuple[Probability, Probability]
LOCAL_SCALE = (0.05, 0.14)
"""Of SwAV's local views (facebookresearch/swav, ``swav_800ep_pretrain.sh``: ``min_scale_crops`` and
``max_scale_crops``), and of VICRegL's."""

_AUTHORS: dict[str, Any] = {
    # facebookresearch/vicreg, augmentations.py, class TrainTransform
    "crop_scale": (0.08, 1.0),  # RandomResizedCrop(224, BICUBIC): torchvision's default scale
    "horizontal_flip": 0.5,  # RandomHorizontalFlip(p=0.5)
    "color_jitter": 0.8,  # RandomApply([ColorJitter], p=0.8)
    "brightness": 0.4,  # ColorJitter(brightness=0.4
    "contrast": 0.4,  # contrast=0.4
    "saturation": 0.2,  # saturation=0.2
    "hue": 0.1,  # hue=0.1)
    "grayscale": 0.2,  # RandomGrayscale(p=0.2)
    "blur": (1.0, 0.1),  # transform: GaussianBlur(p=1.0); transform_prime: GaussianBlur(p=0.1)
    "solarize": (0.0, 0.2),  # transform: Solarization(p=0.0); transform_prime: Solarization(p=0.2)
}
PRESETS: dict[str, dict[str, Any]] = {
    "vicreg": _AUTHORS,
    "paper": _AUTHORS
    | {
        # arXiv 2105.04906, Appendix C.1: both views are augmented alike
        "blur": (0.5, 0.5),  # Gaussian blur with probability 0.5
        "solarize": (0.1, 0.1),  # solarisation with probability 0.1
    },
    "cifar": _AUTHORS
    | {
        # vturrisi/solo-learn, scripts/pretrain/cifar/vicreg.yaml, augmentations; its jitter,
        # grayscale and flip are as above
        "crop_scale": (0.2, 1.0),  # rrc: crop_min_scale 0.2, crop_max_scale 1.0
        "blur": (0.0, 0.0),  # gaussian_blur: enabled False
        "solarize": (0.1, 0.1),  # solarization: prob 0.1
    },
}


class Views(SpecModel):
    """How many views are made of an image, all from one decode.

    Local views are small and show small parts of it (multi-crop: Caron et al. 2020, SwAV). The
    invariance term matches each to both global ones (``train/local_invariance``); variance and
    covariance are those of the global ones. Local views are blurred and solarised in turn as the
    first and as the second view.
    """

    # `global` is a keyword of Python.
    model_config = ConfigDict(serialize_by_alias=True)

    global_: Literal[2] = Field(default=2, alias="global")
    """Views of ``data.image_size``, cropped by ``crop_scale``."""
    local: int = Field(default=0, ge=0, le=16)
    """Views of ``local_size``. They need method vicreg or vicregl, with shared weights."""
    local_size: ImageSize = 96
    """Side of a local view, in pixels."""
    local_scale: Scale | None = None
    """Smallest and largest share of the image's area that a local view covers. Default: from 0.05
    to where ``crop_scale`` begins, and at least to 0.14."""

    @model_validator(mode="after")
    def _local_scale_in_order(self) -> Views:
        if self.local_scale is not None:
            _check_order("local_scale", self.local_scale)
        return self


class Augmentation(SpecModel):
    """How views are augmented. Probabilities in [0, 1]; pairs are (first view, second view).

    With every preset, images are normalised by the mean and standard deviation of ImageNet.
    """

    preset: Literal["vicreg", "paper", "cifar"] = "vicreg"
    """``vicreg``: the authors' code; ``paper``: symmetrised; ``cifar``: small images."""
    views: Views = Views()
    crop_scale: Scale
    """Smallest and largest share of the image's area that a crop covers."""
    horizontal_flip: Probability
    """Probability of a mirrored view."""
    color_jitter: Probability
    """Probability of the jitter; its strengths are the next four fields."""
    brightness: Strength
    """As in torchvision's ``ColorJitter``, like the next three."""
    contrast: Strength
    """As in ``ColorJitter``."""
    saturation: Strength
    """As in ``ColorJitter``."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)]
    """As in ``ColorJitter``."""
    grayscale: Probability
    """Probability of a view without colour."""
    blur: PerView
    """Probability of a Gaussian blur, for the first and for the second view."""
    solarize: PerView
    """Probability of solarisation, for the first and for the second view."""
    resample: Literal["torch", "pillow"] = "torch"
    """What cuts and resizes the crops of images that are read when needed. ``torch`` is several
    times as fast; its pixels are ``pillow``'s to 1 of 255 (but for 3 in 100,000, to 4), unless a
    crop is so large that the JPEG file is decoded at a part of its size. The two draw other crops.
    Versions before 0.3.0 used ``pillow``. Images held in memory are not concerned."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return PRESETS.get(str(data.get("preset", "vicreg")), _AUTHORS) | data

    @model_validator(mode="after")
    def _crop_scale_in_order(self) -> Augmentation:
        _check_order("crop_scale", self.crop_scale)
        return self

    def scale(self, view: int) -> Scale:
        """Smallest and largest share of the image's area that a view covers.

        Args:
            view: its number, from 0: the global views come first.
        """
        if view < self.views.global_:
            return self.crop_scale
        if self.views.local_scale is not None:
            return self.views.local_scale
        # With the global scales of SwAV (from 0.14) and of DINO (from 0.4), their local scales.
        smallest, largest = LOCAL_SCALE
        return smallest, max(largest, self.crop_scale[0])


def _check_order(field: str, scale: Scale) -> None:
    smallest, largest = scale
    if not 0.0 < smallest <= largest:
        raise ValueError(f"{field} must be [smallest, largest] with 0 < smallest <= largest")
