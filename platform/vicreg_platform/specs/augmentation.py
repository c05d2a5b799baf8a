"""How the two views of an image are augmented.

The presets hold the probabilities and strengths of the authors' ``augmentations.py``
(facebookresearch/vicreg), of the paper's Appendix C.1, and of solo-learn's CIFAR recipe
(``scripts/pretrain/cifar/vicreg.yaml``). A field that is given overrides the preset's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vicreg_platform.specs.base import Probability, SpecModel

Strength = Annotated[float, Field(ge=0.0, le=10.0)]
PerView = tuple[Probability, Probability]

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


class Augmentation(SpecModel):
    """How views are augmented. Probabilities in [0, 1]; pairs are (first view, second view).

    With every preset, images are normalised by the mean and standard deviation of ImageNet.
    """

    preset: Literal["vicreg", "paper", "cifar"] = "vicreg"
    """``vicreg``: the authors' code; ``paper``: symmetrised; ``cifar``: small images."""
    crop_scale: tuple[Probability, Probability]
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

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return PRESETS.get(str(data.get("preset", "vicreg")), _AUTHORS) | data

    @model_validator(mode="after")
    def _crop_scale_in_order(self) -> Augmentation:
        smallest, largest = self.crop_scale
        if not 0.0 < smallest <= largest:
            raise ValueError("crop_scale must be [smallest, largest] with 0 < smallest <= largest")
        return self
