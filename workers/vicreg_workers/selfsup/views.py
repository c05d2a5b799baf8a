"""From an image to what the network sees: two random views, or one plain one."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms

from vicreg_platform.specs import Augmentation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BLUR_SIGMA = (0.1, 2.0)
"""Range of the blur's standard deviation, in pixels (the authors' ``augmentations.py``)."""
SOLARIZE_THRESHOLD = 128


class TwoViews:
    """Two random views of an image, as ``TrainTransform`` in the authors' ``augmentations.py``.

    All randomness comes from torch's global generator.

    Args:
        spec: probabilities and strengths.
        image_size: side of a view, in pixels.
    """

    def __init__(self, spec: Augmentation, image_size: int) -> None:
        self._first = _random_view(spec, image_size, spec.blur[0], spec.solarize[0])
        self._second = _random_view(spec, image_size, spec.blur[1], spec.solarize[1])

    def __call__(self, image: Image.Image) -> tuple[Tensor, Tensor]:
        """Two normalised views, each ``[3, S, S]`` float32."""
        return self._first(image), self._second(image)


class PlainView:
    """The image as an evaluation sees it: resized, centre-cropped, normalised.

    Above 64 pixels the shorter side is first resized to 8/7 of the crop (256 for 224), the usual
    ImageNet protocol (the authors' ``evaluate.py``); small images are resized to the crop itself.
    """

    def __init__(self, image_size: int) -> None:
        resized = image_size if image_size <= 64 else round(image_size * 256 / 224)
        self._transform = transforms.Compose(
            [
                transforms.Resize(resized, InterpolationMode.BICUBIC),
                transforms.CenterCrop(image_size),
                *_to_normalised_tensor(),
            ]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """One normalised view, ``[3, S, S]`` float32."""
        view: Tensor = self._transform(image)
        return view


def denormalise(views: Tensor) -> Tensor:
    """Views ``[..., 3, S, S]`` back to RGB in [0, 1]."""
    mean = views.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = views.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (views * std + mean).clamp(0, 1)


def _random_view(
    spec: Augmentation, image_size: int, blur: float, solarize: float
) -> transforms.Compose:
    jitter = transforms.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    # A kernel of 23 pixels holds the widest blur to three standard deviations and more; a view
    # smaller than that takes the largest odd kernel that fits.
    kernel = min(23, image_size - 1 + image_size % 2)
    steps: list[tuple[float, object]] = [
        (spec.horizontal_flip, transforms.RandomHorizontalFlip(spec.horizontal_flip)),
        (spec.color_jitter, transforms.RandomApply([jitter], spec.color_jitter)),
        (spec.grayscale, transforms.RandomGrayscale(spec.grayscale)),
        (blur, transforms.RandomApply([transforms.GaussianBlur(kernel, BLUR_SIGMA)], blur)),
        (solarize, transforms.RandomSolarize(SOLARIZE_THRESHOLD, solarize)),
    ]
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                image_size, scale=spec.crop_scale, interpolation=InterpolationMode.BICUBIC
            ),
            *(step for probability, step in steps if probability > 0),
            *_to_normalised_tensor(),
        ]
    )


def _to_normalised_tensor() -> list[object]:
    return [
        transforms.ToImage(),
        transforms.ToDtype(torch.float32, scale=True),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
