"""Views are drawn as the spec says, and equal those of the reference transforms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional

from vicreg_platform.specs import Augmentation
from vicreg_platform.specs.data import Interpolation
from vicreg_workers.selfsup.data.random_parameters import (
    Colours,
    draw_colours,
    draw_crops,
    draw_flips,
    generator_for,
)
from vicreg_workers.selfsup.data.transforms import (
    PlainView,
    crop_batch,
    denormalise,
    normalise,
    recolour,
)

DRAWS = 20_000
PRESETS = ("vicreg", "paper", "cifar")


def preset(name: str) -> Augmentation:
    return Augmentation.model_validate({"preset": name})


def photographs(count: int, size: int = 32) -> Tensor:
    """Smooth coloured images, uint8 ``[n, 3, S, S]``."""
    coarse = torch.randint(0, 256, (count, 3, 5, 5), generator=generator_for(1)).float()
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return smooth.clamp(0, 255).byte()


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def quiet(count: int, **changes: Tensor) -> Colours:
    """No change at all, but ``changes``."""
    never = torch.zeros(count, dtype=torch.bool)
    fields = {
        "jitter": never,
        "order": torch.arange(4).expand(count, 4),
        "factors": torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(count, 4),
        "grayscale": never,
        "blur": torch.zeros(count),
        "solarize": never,
    }
    return Colours(**(fields | changes))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("view", [0, 1])
def test_every_augmentation_comes_at_its_rate(name: str, view: int) -> None:
    spec = preset(name)
    colours = draw_colours(spec, view, DRAWS, generator_for(2, view))
    flips = draw_flips(spec, DRAWS, generator_for(3, view))
    observed = {
        "flip": flips,
        "jitter": colours.jitter,
        "grayscale": colours.grayscale,
        "blur": colours.blur > 0,
        "solarize": colours.solarize,
    }
    wanted = {
        "flip": 0.5,
        "jitter": 0.8,
        "grayscale": 0.2,
        # augmentations.py of the authors, Appendix C.1 of the paper, solo-learn's vicreg.yaml
        "blur": {"vicreg": (1.0, 0.1), "paper": (0.5, 0.5), "cifar": (0.0, 0.0)}[name][view],
        "solarize": {"vicreg": (0.0, 0.2), "paper": (0.1, 0.1), "cifar": (0.1, 0.1)}[name][view],
    }
    for kind, rate in wanted.items():
        # Four standard deviations of a rate over 20,000 draws; never and always are exact.
        tolerance = 4 * (rate * (1 - rate) / DRAWS) ** 0.5
        assert observed[kind].float().mean().item() == pytest.approx(rate, abs=tolerance + 1e-9)


def test_strengths_are_drawn_over_their_whole_range() -> None:
    colours = draw_colours(preset("vicreg"), 0, DRAWS, generator_for(4))
    low, high = colours.factors.amin(dim=0), colours.factors.amax(dim=0)
    torch.testing.assert_close(low, torch.tensor([0.6, 0.6, 0.8, -0.1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(high, torch.tensor([1.4, 1.4, 1.2, 0.1]), atol=1e-3, rtol=0)
    assert (float(colours.blur.min()), float(colours.blur.max())) == pytest.approx(
        (0.1, 2.0), abs=1e-3
    )
    _, orders = torch.unique(colours.order, dim=0, return_counts=True)
    assert len(orders) == 24
    assert float((orders / DRAWS - 1 / 24).abs().max()) < 4 * (23 / 24**2 / DRAWS) ** 0.5


@pytest.mark.parametrize("shape", [(32, 32), (375, 500), (20, 200)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    height, width = shape
    heights, widths = (torch.full((DRAWS,), side) for side in shape)
    ours = draw_crops(preset("vicreg"), DRAWS, generator_for(5)).boxes(heights, widths).double()
    reference = transforms.RandomResizedCrop(8, scale=(0.08, 1.0))
    torch.manual_seed(0)
    image = torch.zeros(3, height, width)
    drawn = [reference.make_params([image]) for _ in range(4000)]
    theirs = torch.tensor([[d["top"], d["left"], d["height"], d["width"]] for d in drawn]).double()
    assert (ours >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    for column in range(4):
        a, b = (x[:, column].sort().values for x in (ours, theirs))
        at = torch.linspace(0, max(height, width), 101, dtype=torch.double)
        distance = (torch.searchsorted(a, at, right=True) / len(a)) - (
            torch.searchsorted(b, at, right=True) / len(b)
        )
        # Kolmogorov-Smirnov at about 1e-4.
        assert float(distance.abs().max()) < 2.2 * (1 / len(a) + 1 / len(b)) ** 0.5


@pytest.mark.parametrize("size", [32, 12, 48])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_pils(size: int, interpolation: Interpolation) -> None:
    images = photographs(64)
    crops = draw_crops(preset("vicreg"), 64, generator_for(6)).boxes(*torch.full((2, 64), 32))
    flips = draw_flips(preset("vicreg"), 64, generator_for(7))
    made = crop_batch(images.transpose(1, 2).contiguous(), crops, flips, size, interpolation)
    for image, (top, left, height, width), flip, ours in zip(
        images, crops.tolist(), flips, made, strict=True
    ):
        view = functional.resized_crop(
            pil(image), top, left, height, width, [size, size], InterpolationMode(interpolation)
        )
        if flip:
            view = functional.horizontal_flip(view)
        theirs = torch.from_numpy(np.array(view)).permute(2, 0, 1) / 255
        # PIL rounds to bytes between the axes and at the end.
        torch.testing.assert_close(ours, theirs, atol=2.5 / 255, rtol=0)


@pytest.mark.parametrize(
    ("kind", "adjust", "values"),
    [
        (0, functional.adjust_brightness, (0.6, 1.4)),
        (1, functional.adjust_contrast, (0.6, 1.4)),
        (2, functional.adjust_saturation, (0.8, 1.2)),
        (3, functional.adjust_hue, (-0.5, 0.5)),
    ],
)
def test_colours_are_jittered_as_torchvision_does(
    kind: int, adjust: object, values: tuple[float, float]
) -> None:
    images = photographs(40).float() / 255
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(40, 1)
    factors[:, kind] = torch.linspace(*values, 40)
    chosen = torch.arange(40) % 4 > 0
    made = recolour(images.clone(), quiet(40, jitter=chosen, factors=factors))
    for image, ours, factor, jittered in zip(images, made, factors[:, kind], chosen, strict=True):
        wanted = adjust(image, float(factor)) if jittered else image  # type: ignore[operator]
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)


def test_jitter_is_done_in_the_order_drawn() -> None:
    images = photographs(24).float() / 255
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[orders.sort(dim=1).values.eq(torch.arange(4)).all(dim=1)]
    factors = torch.tensor([1.4, 0.6, 1.2, 0.1]).expand(24, 4)
    made = recolour(
        images.clone(), quiet(24, jitter=torch.ones(24).bool(), order=orders, factors=factors)
    )
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for image, ours, order in zip(images, made, orders.tolist(), strict=True):
        for kind in order:
            image = adjust[kind](image, float(factors[0, kind]))
        torch.testing.assert_close(ours, image, atol=2e-4, rtol=0)


def test_grayscale_solarisation_and_blur_are_the_references() -> None:
    images = photographs(30)
    third = torch.arange(30) % 3
    sigma = torch.where(third == 2, torch.linspace(0.1, 2.0, 30), 0.0)
    made = recolour(
        images.float() / 255, quiet(30, grayscale=third == 0, solarize=third == 1, blur=sigma)
    )
    for image, ours, kind, width in zip(images, made, third.tolist(), sigma.tolist(), strict=True):
        exact = image.float() / 255
        if kind == 0:
            wanted = functional.rgb_to_grayscale(exact, 3)
        elif kind == 1:
            wanted = functional.solarize(image, 128).float() / 255
        else:
            padded = torch.nn.functional.pad(exact[None], (8, 8, 8, 8), mode="replicate")[0]
            wanted = functional.gaussian_blur(padded, [17, 17], [width, width])[:, 8:-8, 8:-8]
        torch.testing.assert_close(ours, wanted, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", PRESETS)
def test_whole_views_are_distributed_as_the_references(name: str) -> None:
    """The authors' chain of torchvision transforms on the same images, by what their pixels are."""
    spec, count = preset(name), 900
    images = photographs(300).repeat(count // 300, 1, 1, 1)
    generator = generator_for(8)
    crops = draw_crops(spec, count, generator).boxes(*torch.full((2, count), 32))
    flips = draw_flips(spec, count, generator)
    ours = crop_batch(images.transpose(1, 2).contiguous(), crops, flips, 32)
    ours = recolour(ours, draw_colours(spec, 1, count, generator))
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                32, scale=spec.crop_scale, interpolation=InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(23, (0.1, 2.0))], spec.blur[1]),
            transforms.RandomSolarize(128, spec.solarize[1]),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    torch.manual_seed(0)
    theirs = torch.stack([chain(pil(image)) for image in images])
    statistics: list[Callable[[Tensor], Tensor]] = [
        lambda x: x.mean(dim=(1, 2, 3)),
        lambda x: x.std(dim=(1, 2, 3)),
        lambda x: x.std(dim=1).mean(dim=(1, 2)),  # how coloured
        lambda x: x.diff(dim=-1).abs().mean(dim=(1, 2, 3)),  # how sharp
    ]
    for statistic in statistics:
        a, b = statistic(ours), statistic(theirs)
        error = (a.var() / count + b.var() / count).sqrt()
        assert float((a.mean() - b.mean()).abs() / error) < 4
        assert float(a.std() / b.std()) == pytest.approx(1, abs=0.1)


def test_normalisation_is_undone_by_its_inverse() -> None:
    images = photographs(4).float() / 255
    normalised = normalise(images)
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(denormalise(normalised), images)


def test_near_keys_give_unrelated_draws() -> None:
    draws = torch.stack([torch.rand(64, generator=generator_for(0, 1, k)) for k in range(64)])
    assert len(torch.unique(draws)) > 4000
    correlation = torch.corrcoef(draws).fill_diagonal_(0).abs().max()
    assert float(correlation) < 0.6


def test_small_images_are_not_cropped_for_an_evaluation() -> None:
    white_border = Image.new("RGB", (32, 32), "white")
    white_border.paste(Image.new("RGB", (30, 30), "black"), (1, 1))
    whole = denormalise(PlainView(32)(white_border))
    assert float(whole[:, 0, 0].min()) == pytest.approx(1.0, abs=1e-5)


def test_an_image_of_any_shape_becomes_a_square() -> None:
    assert PlainView(224)(Image.new("RGB", (300, 100))).shape == (3, 224, 224)
