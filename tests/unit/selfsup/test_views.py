"""Views are drawn as the spec says."""

import pytest
import torch
from PIL import Image

from vicreg_platform.specs import Augmentation
from vicreg_workers.selfsup.views import PlainView, TwoViews, denormalise

OFF = {
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": 0.0,
    "color_jitter": 0.0,
    "grayscale": 0.0,
    "blur": (0.0, 0.0),
    "solarize": (0.0, 0.0),
}


def picture(size: int = 40) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.rand(size, size, 3, generator=generator) * 255).byte()
    return Image.fromarray(pixels.numpy())


def views(**changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    return TwoViews(Augmentation.model_validate(OFF | changes), 24)(picture())


@pytest.mark.parametrize("preset", ["vicreg", "paper", "cifar"])
@pytest.mark.parametrize("size", [8, 32, 224])
def test_every_preset_makes_views_of_every_size(preset: str, size: int) -> None:
    first, second = TwoViews(Augmentation.model_validate({"preset": preset}), size)(picture())
    assert first.shape == second.shape == (3, size, size)
    assert first.dtype == torch.float32
    assert not torch.equal(first, second)


def test_grayscale_makes_the_channels_equal() -> None:
    first, _ = views(grayscale=1.0)
    gray = denormalise(first)
    torch.testing.assert_close(gray[0], gray[1], atol=1e-2, rtol=0)


@pytest.mark.parametrize(("field", "kind"), [("blur", 0), ("solarize", 1)])
def test_a_view_has_its_own_probability(field: str, kind: int) -> None:
    torch.manual_seed(0)
    plain, changed = views(**{field: (0.0, 1.0)})
    variation = [float(denormalise(v).diff(dim=-1).abs().mean()) for v in (plain, changed)]
    bright = [float((denormalise(v) > 0.52).float().mean()) for v in (plain, changed)]
    if kind == 0:
        assert variation[1] < variation[0] * 0.9
    else:
        assert bright[0] > 0.2
        assert bright[1] == 0.0  # what was bright is inverted


def test_flips_come_at_their_rate() -> None:
    torch.manual_seed(0)
    gradient = Image.linear_gradient("L").rotate(90).convert("RGB").resize((24, 24))
    draw = TwoViews(Augmentation.model_validate(OFF | {"horizontal_flip": 0.3}), 24)
    flipped = sum(
        bool(view[0, 12, 0] < view[0, 12, -1]) for _ in range(500) for view in draw(gradient)
    )
    plain = bool(PlainView(24)(gradient)[0, 12, 0] < PlainView(24)(gradient)[0, 12, -1])
    rate = flipped / 1000 if not plain else 1 - flipped / 1000
    assert rate == pytest.approx(0.3, abs=0.05)


def test_small_images_are_not_cropped_for_an_evaluation() -> None:
    white_border = Image.new("RGB", (32, 32), "white")
    white_border.paste(Image.new("RGB", (30, 30), "black"), (1, 1))
    whole = denormalise(PlainView(32)(white_border))
    assert float(whole[:, 0, 0].min()) == pytest.approx(1.0, abs=1e-5)


def test_an_image_of_any_shape_becomes_a_square() -> None:
    assert PlainView(224)(Image.new("RGB", (300, 100))).shape == (3, 224, 224)
