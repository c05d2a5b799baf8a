"""Turns pixels into views: random ones in whole batches, or plain ones.

The random parameters come from ``random_parameters``. Here they are applied to all images of a
batch at once, on any device, each image having its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms

from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.random_parameters import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    Colours,
)
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD

LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a pixel's lightness (ITU-R BT.601, as in PIL)."""
SOLARIZE_THRESHOLD = 127.5 / 255
"""Pixels of at least 128 of 255 are inverted (PIL's ``ImageOps.solarize``)."""
BLUR_RADIUS = 8
"""In pixels: four standard deviations of the widest blur."""


def crop_batch(
    images: Tensor,
    crops: Tensor,
    flips: Tensor,
    size: int,
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Crop each image, resize the crop to a square, and mirror it if ``flips`` says so.

    With antialiasing, as PIL and so the authors' code. The resize is linear in the pixels, and is
    computed as one matrix product per axis.

    Args:
        images: uint8 ``[n, H, 3, W]``: with rows outermost, both products need no transpose.
        crops: top, left, height, width, ``[n, 4]``.
        flips: bool ``[n]``.
        size: S, the side of a view in pixels.
        interpolation: the filter.

    Returns:
        ``[n, 3, S, S]`` float32 in [0, 1].
    """
    kernel = _KERNELS[interpolation]
    count, height, channels, width = images.shape
    top, left, tall, wide = crops.float().to(images.device, non_blocking=True).unbind(dim=1)
    flips = flips.to(images.device, non_blocking=True)
    rows = _resize_matrix(top, tall, torch.zeros_like(flips), height, size, kernel)
    columns = _resize_matrix(left, wide, flips, width, size, kernel)
    pixels = images.float().view(count, height * channels, width) @ columns.mT
    pixels.clamp_(0, 255)  # PIL stores bytes between the two axes
    pixels = rows @ pixels.view(count, height, channels * size)
    planes = pixels.view(count, size, channels, size).transpose(1, 2)
    return planes.div(255).clamp_(0, 1)


def _resize_matrix(
    start: Tensor,
    length: Tensor,
    flip: Tensor,
    source: int,
    size: int,
    kernel: Callable[[Tensor], Tensor],
) -> Tensor:
    """The weights ``[n, size, source]`` that resize pixels [start, start + length) to ``size``."""
    device = start.device
    scale = length / size
    centre = (torch.arange(size, device=device) + 0.5) * scale[:, None]
    centre = torch.where(flip[:, None], length[:, None] - centre, centre)
    position = torch.arange(source, device=device) + 0.5 - start[:, None]
    inside = (position > 0) & (position < length[:, None])
    # Antialiasing: when shrinking, the filter widens to cover all pixels that fall into one.
    distance = position[:, None, :] - centre[:, :, None]
    distance = (distance / scale.clamp_min(1)[:, None, None]).abs_()
    weights = kernel(distance).mul_(inside[:, None, :])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _bicubic(x: Tensor) -> Tensor:
    """Keys 1981 with a = -0.5, for x at least 0."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _bilinear(x: Tensor) -> Tensor:
    """A triangle, for x at least 0."""
    return (1 - x).clamp_min(0)


_KERNELS = {"bicubic": _bicubic, "bilinear": _bilinear}


def recolour(views: Tensor, colours: Colours) -> Tensor:
    """Jitter, grayscale, blur and solarise, in the order of the authors' ``augmentations.py``.

    Args:
        views: ``[n, 3, S, S]`` float32 in [0, 1]; changed in place.
        colours: the changes of each view.
    """
    for place in range(4):
        for kind, change in _CHANGES.items():
            chosen = (colours.jitter & (colours.order[:, place] == kind)).nonzero()[:, 0]
            _change(views, chosen, change, colours.factors[:, kind])
    _change(views, colours.grayscale.nonzero()[:, 0], _lightness)
    _change(views, colours.blur.nonzero()[:, 0], _blurred, colours.blur)
    _change(views, colours.solarize.nonzero()[:, 0], _solarized)
    return views


def normalise(views: Tensor) -> Tensor:
    """Normalise views in [0, 1] by ImageNet's mean and standard deviation; channels last."""
    mean, std = (_channels(each, views.device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (
        torch.empty_like(views, memory_format=torch.channels_last).copy_(views).sub_(mean).div_(std)
    )


def normalised(pixels: Tensor, device: torch.device) -> Tensor:
    """Views of uint8 ``[n, 3, S, S]`` on ``device``, normalised to float32; channels last."""
    return normalise(pixels.to(device, non_blocking=True).float().div_(255))


def denormalise(views: Tensor) -> Tensor:
    """Undo ``normalise``: views ``[..., 3, S, S]`` to RGB in [0, 1]."""
    mean, std = (_channels(each, views.device) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (views * std + mean).clamp(0, 1)


MAX_ASPECT = 16
"""How many times as long as wide an image is resized."""


class PlainView:
    """The view of an image for evaluation: resized and centre-cropped.

    Above 64 pixels, the shorter side is first resized to 8/7 of the crop (256 for 224), the usual
    ImageNet protocol (the authors' ``evaluate.py``). Smaller images are resized to the crop.
    """

    def __init__(self, image_size: int, interpolation: Interpolation = "bicubic") -> None:
        self.size = image_size
        """Side of a view, in pixels."""
        self.bytes = 3 * image_size**2
        """Of a view."""
        resized = image_size if image_size <= 64 else round(image_size * 256 / 224)
        self._transform = transforms.Compose(
            [
                transforms.Resize(resized, InterpolationMode(interpolation)),
                transforms.CenterCrop(image_size),
                transforms.PILToTensor(),
            ]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """One view, ``[3, S, S]`` uint8."""
        view: Tensor = self._transform(_without_ends(image))
        return view


def _without_ends(image: Image.Image) -> Image.Image:
    """The middle of an image that is very long: all else would be cropped after its resize.

    Resized whole, an image of 5,000×1 pixels would take 1.3 GB.
    """
    long, short = max(image.size), min(image.size)
    cut = max(0, long - MAX_ASPECT * short) // 2
    if not cut:
        return image
    wide, high = image.size
    if wide > high:
        return image.crop((cut, 0, wide - cut, high))
    return image.crop((0, cut, wide, high - cut))


def _change(
    views: Tensor, chosen: Tensor, change: Callable[..., Tensor], parameters: Tensor | None = None
) -> None:
    """Apply ``change`` with their parameters to the chosen views, in place."""
    if not len(chosen):
        return
    arguments = []
    if parameters is not None:
        arguments = [parameters[chosen].to(views.device, non_blocking=True).view(-1, 1, 1, 1)]
    rows = chosen.to(views.device, non_blocking=True)
    views.index_copy_(0, rows, change(views.index_select(0, rows), *arguments))


@lru_cache
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number per channel, ``[3, 1, 1]``. Cached, because every copy to a GPU waits for it."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def _lightness(x: Tensor) -> Tensor:
    return (x * _channels(LUMA, x.device)).sum(dim=1, keepdim=True).expand_as(x)


def _brightened(x: Tensor, factor: Tensor) -> Tensor:
    return x.mul_(factor).clamp_(0, 1)


def _contrasted(x: Tensor, factor: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3), keepdim=True)
    mean = (mean * _channels(LUMA, x.device)).sum(dim=1, keepdim=True)
    return x.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def _saturated(x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_lightness(x), x, factor).clamp_(0, 1)


def _hue_shifted(x: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of HSV; saturation and value stay.

    Each channel of HSV(h, s, v) is v - c · clamp(min(k, 4 - k), 0, 1) with the chroma c = v · s
    and k = (5, 3, 1) + 6 h, modulo 6, for red, green and blue.
    """
    red, green, blue = x.unbind(dim=1)
    value = x.amax(dim=1)
    chroma = value - x.amin(dim=1)
    divisor = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    sixths = sixths + turns[:, 0] * 6
    k = sixths[:, None] + _channels((5.0, 3.0, 1.0), x.device)
    k = k.remainder_(6)
    k = torch.minimum(k, 4 - k).clamp_(0, 1)
    return torch.addcmul(value[:, None], k, chroma[:, None], value=-1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur by a Gaussian along both axes. Edge pixels are repeated outwards, as in PIL."""
    size = x.shape[-1]
    offset = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=x.device)
    kernel = torch.exp(offset.square() / (-2 * sigma.view(-1, 1).square()))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    target = (torch.arange(size, device=x.device)[:, None] + offset).clamp_(0, size - 1)
    matrix = x.new_zeros(len(x), size, size)
    matrix.scatter_add_(
        2, target.expand(len(x), -1, -1), kernel[:, None, :].expand(-1, size, -1).contiguous()
    )
    matrix = matrix[:, None]
    return matrix @ x @ matrix.mT


def _solarized(x: Tensor) -> Tensor:
    return torch.where(x >= SOLARIZE_THRESHOLD, 1 - x, x)


_CHANGES = {
    BRIGHTNESS: _brightened,
    CONTRAST: _contrasted,
    SATURATION: _saturated,
    HUE: _hue_shifted,
}
