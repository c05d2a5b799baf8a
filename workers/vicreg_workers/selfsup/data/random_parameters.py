"""The random parameters of a batch's views, drawn for all its images at once.

They are drawn on the CPU, by a generator seeded by the step, and applied elsewhere. A view depends
only on the seed, the step and the image's position in the global batch: not on the device, the
number of processes, or what was drawn before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg_platform.specs import Augmentation

ASPECT_RATIO = (3 / 4, 4 / 3)
"""Of a crop (torchvision's ``RandomResizedCrop``, which the authors' ``augmentations.py`` uses)."""
BLUR_SIGMA = (0.1, 2.0)
"""Range of the blur's standard deviation, in pixels (the authors' ``augmentations.py``)."""
CROP_TRIES = 10
"""Tries before the largest centred crop is taken, as in torchvision."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


@dataclass(frozen=True)
class Colours:
    """The colour changes of n views, on the CPU."""

    jitter: Tensor
    """Whether the colours are jittered, bool ``[n]``."""
    order: Tensor
    """The order of the four jitters, ``[n, 4]`` in [0, 4)."""
    factors: Tensor
    """Factors of brightness, contrast and saturation (at least 0), and the shift of the hue (in
    turns, in [-0.5, 0.5]), ``[n, 4]``."""
    grayscale: Tensor
    """bool ``[n]``."""
    blur: Tensor
    """Standard deviation in pixels, 0 for none, ``[n]``."""
    solarize: Tensor
    """bool ``[n]``."""

    def rows(self, start: int, count: int) -> Colours:
        """The changes of ``count`` views from ``start`` on."""
        return Colours(*(field.narrow(0, start, count) for field in vars(self).values()))


def generator_for(*key: int) -> torch.Generator:
    """A generator seeded by all of ``key`` (non-negative integers) and nothing else."""
    mixed = 0
    for part in key:
        # SplitMix64 (Steele et al. 2014): similar keys give unrelated streams.
        mixed = (mixed + part + 0x9E3779B97F4A7C15) % 2**64
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
    return torch.Generator().manual_seed(mixed % 2**63)


def draw_colours(spec: Augmentation, view: int, count: int, generator: torch.Generator) -> Colours:
    """Draw the colour changes of ``count`` views.

    Args:
        spec: probabilities and strengths.
        view: the number of the view, from 0. The first and the second differ in blur and
            solarisation; local ones are in turn as the first and as the second, as in VICRegL
            (facebookresearch/VICRegL, ``transforms.py``).
        count: n.
        generator: draws them.
    """

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    def happens(probability: float) -> Tensor:
        return torch.rand(count, generator=generator) < probability

    strengths = (spec.brightness, spec.contrast, spec.saturation)
    factors = [uniform(max(0.0, 1 - strength), 1 + strength) for strength in strengths]
    sigma = uniform(*BLUR_SIGMA)
    return Colours(
        jitter=happens(spec.color_jitter),
        order=torch.rand(count, 4, generator=generator).argsort(dim=1),
        factors=torch.stack([*factors, uniform(-spec.hue, spec.hue)], dim=1),
        grayscale=happens(spec.grayscale),
        blur=torch.where(happens(spec.blur[view % 2]), sigma, 0.0),
        solarize=happens(spec.solarize[view % 2]),
    )


def draw_flips(spec: Augmentation, count: int, generator: torch.Generator) -> Tensor:
    """Draw whether each of ``count`` views is mirrored, bool ``[count]``."""
    return torch.rand(count, generator=generator) < spec.horizontal_flip


@dataclass(frozen=True)
class CropDraws:
    """What is drawn of n crops before the sizes of their images are known."""

    area: Tensor
    """Shares of the image's area, ``[n, CROP_TRIES]``."""
    ratio: Tensor
    """Width by height, ``[n, CROP_TRIES]``."""
    corner: Tensor
    """Where the crop lies in the room that there is, vertically and horizontally: ``[2, n]`` in
    [0, 1)."""

    def rows(self, start: int, count: int) -> CropDraws:
        """The draws of ``count`` crops from ``start`` on."""
        rows = slice(start, start + count)
        return CropDraws(self.area[rows], self.ratio[rows], self.corner[:, rows])

    def boxes(self, heights: Tensor, widths: Tensor) -> Tensor:
        """The crops of images of these sizes: top, left, height and width, ``[n, 4]``.

        As torchvision's ``RandomResizedCrop.get_params``: the first area and ratio that fit are
        taken. If none fits, the largest centred crop of a permitted ratio is taken.

        Args:
            heights: of the images, ``[n]`` integers.
            widths: the same.
        """
        high, wide = heights[:, None], widths[:, None]
        across = (self.area * high * wide * self.ratio).sqrt().round()
        down = (self.area * high * wide / self.ratio).sqrt().round()
        fits = (across > 0) & (across <= wide) & (down > 0) & (down <= high)
        first = fits.int().argmax(dim=1, keepdim=True)
        chosen = torch.stack([down.gather(1, first), across.gather(1, first)])[:, :, 0]
        room = torch.stack([heights, widths]) - chosen
        corner = (self.corner * (room + 1)).floor().minimum(room)
        crops = torch.cat([corner, chosen]).T.long()
        return torch.where(fits.any(dim=1, keepdim=True), crops, _centred_crops(heights, widths))


def draw_crops(
    spec: Augmentation, count: int, generator: torch.Generator, view: int = 0
) -> CropDraws:
    """Draw crops of ``count`` images: for each, 10 areas and aspect ratios, and a corner.

    Args:
        spec: the shares of an image that a crop covers.
        count: n.
        generator: draws them.
        view: the number of the view, from 0.
    """
    tries = (count, CROP_TRIES)
    smallest, largest = spec.scale(view)
    area = torch.rand(tries, generator=generator) * (largest - smallest) + smallest
    log_ratio = [math.log(ratio) for ratio in ASPECT_RATIO]
    ratio = torch.exp(
        torch.rand(tries, generator=generator) * (log_ratio[1] - log_ratio[0]) + log_ratio[0]
    )
    return CropDraws(area, ratio, torch.rand(2, count, generator=generator))


def _centred_crops(heights: Tensor, widths: Tensor) -> Tensor:
    lowest, highest = ASPECT_RATIO
    across = torch.minimum(widths, (heights.double() * highest).round().long())
    down = torch.minimum(heights, (widths.double() / lowest).round().long())
    top, left = (heights - down) // 2, (widths - across) // 2
    return torch.stack([top, left, down, across], dim=1)
