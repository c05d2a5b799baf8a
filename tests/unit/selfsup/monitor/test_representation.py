"""A network is measured on the same images, unchanged, and not too often."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.specs import DigitsData
from vicreg_workers.selfsup.data.decoding import AnyPicture
from vicreg_workers.selfsup.data.sources import Digits, Subset
from vicreg_workers.selfsup.data.transforms import normalised
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.monitor import representation
from vicreg_workers.selfsup.monitor.representation import Diagnostics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(DigitsData(source="digits"))


@pytest.fixture
def network() -> JointEmbedding:
    torch.manual_seed(0)
    return JointEmbedding(spec_for(epochs=1))


@pytest.mark.parametrize(
    ("images", "workers", "epochs", "every"),
    [
        (1_000, 1, 1_000, 50),
        (4_000, 1, 1_000, 50),
        (50_000, 1, 1_000, 4),
        (50_000, 8, 1_000, 32),
        (1_281_167, 1, 1_000, 1),
        (4_000, 1, 100, 20),
        (4_000, 1, 14, 2),
        (4_000, 1, 6, 1),
        (50_000, 1, 1, 1),
    ],
)
def test_a_50th_of_the_images_trained_on_is_measured_at_most_but_five_times_in_any_training(
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    workers: int,
    epochs: int,
    every: int,
) -> None:
    monkeypatch.setattr(representation, "world_size", lambda: workers)
    many = Subset(digits, [0] * images)
    assert Diagnostics(many, 8, CPU, 0, nullcontext, epochs).every_epochs == every


def test_kept_views_equal_new_ones(
    digits: Digits, network: JointEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representation, "SAMPLE", 50)
    monkeypatch.setattr(representation, "BATCH_SIZE", 25)
    few = Subset(digits, range(100))
    kept = Diagnostics(few, 8, CPU, 0, nullcontext, 1000)
    monkeypatch.setattr(representation, "KEPT_BYTES", 0)
    new = Diagnostics(few, 8, CPU, 0, nullcontext, 1000)
    for neighbours in (False, True, False):
        first, second = (each.of(network, neighbours).metrics() for each in (kept, new))
        assert first == second
    assert network.training


def test_neighbours_do_not_change_what_else_is_measured(
    digits: Digits, network: JointEmbedding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(representation, "SAMPLE", 500)
    measured = Diagnostics(digits, 8, CPU, 0, nullcontext, 1000)
    without = measured.of(network, neighbours=False)
    with_them = measured.of(network, neighbours=True)
    assert with_them.representation == without.representation
    assert without.knn_top1 is None
    assert with_them.knn_top1 is not None


def test_neighbours_by_pixels_are_of_the_same_digit(
    digits: Digits, network: JointEmbedding
) -> None:
    network.backbone, network.expander = torch.nn.Flatten(), torch.nn.Sequential()
    top1 = Diagnostics(digits, 8, CPU, 0, nullcontext, 1000).of(network, neighbours=True).knn_top1
    assert top1 is not None
    assert top1 > 0.9


class SomeUnreadable(Subset):
    """Of every four images only one can be read."""

    def open(self, index: int) -> AnyPicture:
        if index % 4:
            raise OSError
        return super().open(index)


def test_images_that_cannot_be_read_are_left_out(digits: Digits, network: JointEmbedding) -> None:
    network.backbone, network.expander = torch.nn.Flatten(), torch.nn.Sequential()
    some = SomeUnreadable(digits, range(len(digits)))
    top1 = Diagnostics(some, 8, CPU, 0, nullcontext, 1000).of(network, neighbours=True).knn_top1
    assert top1 is not None
    assert top1 > 0.8  # labels are still those of their images
    one = SomeUnreadable(digits, range(4))
    with pytest.raises(InvalidInput, match="fewer than two of the images"):
        Diagnostics(one, 8, CPU, 0, nullcontext, 1000).of(network, neighbours=False)


@pytest.mark.parametrize("kind", ["one class", "several labels"])
def test_images_without_classes_have_no_neighbours(
    digits: Digits, network: JointEmbedding, kind: str
) -> None:
    few = Subset(digits, range(100))
    if kind == "one class":
        few.classes = ["all"]
    else:
        few.several = torch.zeros(100, 10)
    diagnosis = Diagnostics(few, 8, CPU, 0, nullcontext, 1000).of(network, neighbours=True)
    assert diagnosis.knn_top1 is None
    assert "knn/top1" not in diagnosis.metrics()
    assert diagnosis.representation["rankme"] > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_network_is_measured_in_the_precision_it_is_trained_in(
    digits: Digits, network: JointEmbedding, dtype: torch.dtype
) -> None:
    seen = []
    convolution = network.get_submodule("backbone.conv1")
    convolution.register_forward_hook(lambda _, __, output: seen.append(output.dtype))

    def autocast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)

    few = Subset(digits, range(100))
    Diagnostics(few, 8, CPU, 0, autocast, 1000).of(network, neighbours=False)
    assert set(seen) == {dtype}


@pytest.mark.parametrize(
    ("images", "epochs", "every"),
    [(4_000, 100, 60), (50_000, 100, 20), (50_000, 90, 20), (50, 1, 4296)],
)
def test_lidar_is_measured_at_most_five_times_before_the_end(
    digits: Digits, images: int, epochs: int, every: int
) -> None:
    """And 50 images are trained for each of up to 4,296 views: of few images, only at the end."""
    many = Subset(digits, [0] * images)
    assert Diagnostics(many, 8, CPU, 0, nullcontext, epochs).lidar_every_epochs == every


def test_lidar_needs_200_images_and_changes_nothing_else(
    digits: Digits, network: JointEmbedding
) -> None:
    augmentation = spec_for(1).augmentation
    enough, few = (
        Diagnostics(Subset(digits, range(n)), 8, CPU, 0, nullcontext, 1, augmentation)
        for n in (200, 199)
    )
    random = torch.get_rng_state()
    measured = enough.of(network, neighbours=False, views=True).metrics()
    assert torch.equal(random, torch.get_rng_state())
    assert network.training
    assert 1 < measured.pop("representation/lidar") <= 199
    assert measured == enough.of(network, neighbours=False).metrics()
    assert "representation/lidar" not in few.of(network, neighbours=False, views=True).metrics()


def test_random_weights_are_measured_with_the_statistics_of_images(
    digits: Digits, network: JointEmbedding
) -> None:
    measured = Diagnostics(digits, 8, CPU, 0, nullcontext, 1000)
    random = torch.get_rng_state()
    fresh = deepcopy(network.backbone)
    top1, queries = measured.untrained(fresh)
    assert top1 is not None
    assert queries == len(digits) // 4
    assert torch.equal(random, torch.get_rng_state())
    # They are those of a training step on the first batch, as torch keeps them with momentum 1.
    stepped = deepcopy(network.backbone).train()
    for module in stepped.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        stepped(normalised(next(iter(measured._batches(256)))[0], CPU))
    for name, value in stepped.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value)
