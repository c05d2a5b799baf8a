"""A training step on a real GPU: the host does not wait, and an overflow leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.unit.gpu.test_training import METHODS, OPTIMIZERS, PRECISIONS, spec_of
from tests.unit.selfsup.test_train import poison_at
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.training_batches import Batch, ViewBatches
from vicreg_workers.selfsup.train import Pretraining

BRANCHES = {"byol": "momentum", "simsiam": "target"}
"""Of the methods that need others than shared ones."""


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def batches_of(pretraining: Pretraining) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from pretraining.batches.epoch(epoch)
        epoch += 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("method", METHODS)
def test_from_the_second_step_on_the_host_waits_for_nothing(
    gpu: torch.device, images: Images, method: str, precision: str, optimizer: str
) -> None:
    spec = spec_of(method, precision, optimizer, BRANCHES.get(method, "shared"))
    pretraining = Pretraining(spec, images, NullContext(gpu))
    pretraining.network.train()
    batches = batches_of(pretraining)
    pretraining.step(next(batches))
    torch.cuda.synchronize()
    with waiting_is_an_error():
        for _ in range(3):
            losses, norm = pretraining.step(next(batches))
    assert all(bool(term.isfinite()) for term in losses.terms.values())
    assert norm.device == gpu
    assert pretraining.update.problem() is None


def state_of(pretraining: Pretraining) -> dict[str, Any]:
    """Weights, and the tensors that the optimiser keeps of each."""
    state: dict[str, Any] = dict(pretraining.network.named_parameters())
    for number, entry in pretraining.update.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
    return {name: value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_first_step_that_overflows_half_precision_leaves_no_trace(
    gpu: torch.device, images: Images, optimizer: str
) -> None:
    # A momentum that is made at a skipped step could be memory that nobody has written to.
    unwritten = torch.full((2**26,), torch.nan, device=gpu)
    del unwritten
    spec = spec_of(precision="fp16", optimizer=optimizer)
    warm = spec.model_copy(
        update={"training": spec.training.model_copy(update={"warmup_epochs": 0})}
    )
    pretraining = Pretraining(warm, images, NullContext(gpu))
    pretraining.network.train()
    before = {
        name: value.detach().clone() for name, value in pretraining.network.named_parameters()
    }
    poison_at(pretraining, 1, "gradient")
    batches = batches_of(pretraining)
    pretraining.step(next(batches))
    skipped = state_of(pretraining)
    assert [name for name in before if not torch.equal(before[name], skipped[name])] == []
    assert [name for name, value in skipped.items() if not bool(value.isfinite().all())] == []
    assert pretraining.update.scaler.get_scale() == 2.0**15  # half of torch's initial scale
    for _ in range(8):  # the scale may have to fall further
        pretraining.step(next(batches))
    trained = state_of(pretraining)
    assert [name for name, value in trained.items() if not bool(value.isfinite().all())] == []
    weight = "backbone.conv1.weight"
    assert not torch.equal(before[weight], trained[weight])
    assert pretraining.update.problem() is None


def test_views_are_those_of_the_cpu(gpu: torch.device, images: Images) -> None:
    spec = spec_of()

    def first(device: torch.device) -> Batch:
        return next(
            ViewBatches(
                images, spec.augmentation, views=2, image_size=spec.data.image_size,
                batch_size=32, seed=3, epochs=1, device=device, loaders=0,
            ).epoch(0)
        )  # fmt: skip

    here, there = first(torch.device("cpu")), first(gpu)
    assert here.indices == there.indices
    for mine, theirs in zip(here.views, there.views, strict=True):
        difference = (mine - theirs.cpu()).abs()
        # A pixel at a threshold (solarisation, a rounded crop) may fall on the other side of it.
        assert float(difference.median()) < 1e-4
        assert float((difference > 1e-2).float().mean()) < 1e-2
