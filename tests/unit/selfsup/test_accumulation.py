"""A batch passed in parts has the loss and the gradient of the whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.unit.selfsup.data.test_sources import make_folder
from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_train import Recorder, assert_same, spec_for, train
from vicreg_platform.errors import InvalidSpec
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.accumulation import Accumulation
from vicreg_workers.selfsup.loss.methods import MethodLoss
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.model.sync_batchnorm import SyncBatchNorm
from vicreg_workers.selfsup.random_state import RandomState

CPU = torch.device("cpu")
PLACES: dict[str, Any] = {
    "method": {"name": "vicregl", "layers": [12, 6]},
    "data": {"source": "image_folder", "path": "set", "image_size": 16},
}
"""Maps of 2×2 places."""
METHODS: list[dict[str, Any]] = [
    {},
    {"method": {"name": "barlow_twins"}},
    {"method": {"name": "simclr"}},
    {"method": {"name": "byol"}},
    {"method": {"name": "simsiam"}},
    {"branches": {"weights": "separate"}},
    {"augmentation": {"preset": "cifar", "views": {"local": 3, "local_size": 8}}},
    PLACES,
    PLACES | {"augmentation": {"preset": "cifar", "views": {"local": 2, "local_size": 16}}},
]


def of_parts(spec: PretrainSpec, parts: int, prepare: Callable[[nn.Module], None]) -> list[Tensor]:
    """The loss of a batch, and the gradient of each parameter, in float64."""
    torch.manual_seed(0)
    network = JointEmbedding(spec).double()
    prepare(network)
    local = spec.augmentation.views.local
    loss = MethodLoss(spec.method, spec.expander.normalization, local=local > 0)
    generator = torch.Generator().manual_seed(1)
    side = spec.data.image_size
    views = tuple(
        torch.randn(8, 3, side, side, dtype=torch.double, generator=generator)
        for _ in range(2 + local)
    )
    boxes = torch.randint(1, 9, (8, 2 + local, 5), generator=generator)
    torch.manual_seed(2)
    if parts == 1:
        value = loss(*network(*views), boxes=boxes).terms["loss"]
        value.backward()  # type: ignore[no-untyped-call]
    else:
        passed = Accumulation(network, network, nullcontext, RandomState(CPU), parts)
        value = loss(*passed.embeddings(views), boxes=boxes).terms["loss"]
        passed.backward(value)
    gradients = [each.grad for each in network.parameters() if each.requires_grad]
    assert all(each is not None for each in gradients)
    drawn_next = torch.rand(1)
    return [value.detach(), drawn_next, *(each for each in gradients if each is not None)]


def fixed_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


@pytest.mark.parametrize("changes", METHODS, ids=lambda each: str(each))
@pytest.mark.parametrize("parts", [2, 4])
def test_the_gradient_is_that_of_the_whole_batch(changes: dict[str, Any], parts: int) -> None:
    spec = spec_for(epochs=2, **changes)
    whole = of_parts(spec, 1, fixed_statistics)
    accumulated = of_parts(spec, parts, fixed_statistics)
    for ours, theirs in zip(accumulated, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12, check_dtype=False)


class Noisy(nn.Module):
    """A layer that draws at random."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.3, training=True)


def test_what_a_layer_draws_is_drawn_again() -> None:
    """Else the second pass would be of another network than the loss."""
    spec = spec_for(epochs=2)

    def noisy(network: nn.Module) -> None:
        fixed_statistics(network)
        network.expander = nn.Sequential(Noisy(), network.expander)  # type: ignore[arg-type]

    first, second = of_parts(spec, 4, noisy), of_parts(spec, 4, noisy)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    # With the draws of the first pass written down, the gradient is that of one whole pass.
    torch.manual_seed(0)
    network = JointEmbedding(spec).double()
    noisy(network)
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(8, 3, 8, 8, dtype=torch.double, generator=generator) for _ in range(2)]
    torch.manual_seed(2)
    parts = [network(*part) for part in zip(*(view.chunk(4) for view in views), strict=True)]
    x, y = (torch.cat([part[side] for part in parts]) for side in (0, 1))
    loss = MethodLoss(spec.method, spec.expander.normalization)
    loss(x, y, ((x, y),)).terms["loss"].backward()  # type: ignore[no-untyped-call]
    for ours, parameter in zip(first[2:], network.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-6, atol=1e-12)


def test_statistics_count_each_part_once() -> None:
    spec = spec_for(epochs=2)
    torch.manual_seed(0)
    network = JointEmbedding(spec).train()
    passed = Accumulation(network, network, nullcontext, RandomState(CPU), 2)
    loss = MethodLoss(spec.method, spec.expander.normalization)
    passed.backward(loss(*passed.embeddings((torch.randn(8, 3, 8, 8),) * 2)).terms["loss"])
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    # Two views in two parts each.
    assert {int(norm.num_batches_tracked or 0) for norm in norms} == {4}


def scaled(layer: _BatchNorm, x: Tensor) -> Tensor:
    """A layer in the place of BatchNorm that looks at no other image."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return x * layer.weight.view(shape) + layer.bias.view(shape)


def trained(root: Path, parts: int, workers: int = 1) -> dict[str, Tensor]:
    """A network without BatchNorm, trained for two epochs."""
    spec = spec_for(
        epochs=2,
        workers=workers,
        expander={"layers": [16, 16], "batchnorm": False},
        training={"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "accumulate": parts},
        optimizer={"name": "sgd", "base_lr": 1e-3},
        watch={"knn_every_epochs": 0},
    )
    with pytest.MonkeyPatch.context() as patch:
        for kind in (_BatchNorm, SyncBatchNorm):
            patch.setattr(kind, "forward", scaled)
        state = train(root, Recorder(root / f"{parts}-{workers}"), spec)
    return {name: value for name, value in state.items() if name != "random"}


def test_a_training_in_parts_is_the_training(tmp_path: Path, two_processes: Gloo) -> None:
    make_folder(tmp_path / "set", classes=2, images=8)
    whole = trained(tmp_path, 1)
    for other in (trained(tmp_path, 4), *two_processes.run(trained, tmp_path, 2, 2)):
        assert other.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)


def test_a_run_in_parts_that_is_killed_and_resumed_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    make_folder(tmp_path / "set", classes=2, images=8)
    training = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, "accumulate": 2}
    spec = spec_for(epochs=3, training=training, checkpoint={"every_epochs": 1})
    whole = train(tmp_path, Recorder(tmp_path / "whole"), spec)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Recorder(tmp_path / "killed", killed_after=2), spec)
    assert_same(train(tmp_path, Recorder(tmp_path / "killed"), spec), whole)


@pytest.mark.parametrize(
    ("accumulate", "workers", "text"),
    [
        (3, 1, "8 images of a worker do not divide evenly into 3 parts"),
        (8, 1, "leave 1 to each of 1 workers in each of 8 parts: BatchNorm needs 2"),
        (4, 2, "leave 1 to each of 2 workers in each of 4 parts: BatchNorm needs 2"),
        (4, {"min": 2, "max": 4}, "no number from 2 to 4 divides 8 images evenly: 1 would do"),
    ],
)
def test_parts_that_cannot_be(accumulate: int, workers: Any, text: str) -> None:
    training = {"epochs": 2, "batch_size": 8, "accumulate": accumulate}
    with pytest.raises(InvalidSpec, match=text):
        spec_for(epochs=2, training=training, resources={"workers": workers})
