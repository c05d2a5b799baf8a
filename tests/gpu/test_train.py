"""Whole trainings on a GPU: compiled, stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.gpu.test_training import spec_of
from tests.unit.selfsup.test_train import Recorder, assert_same, train
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.errors import Stopped
from vicreg_workers.selfsup.train import Pretraining


class OnGpu(Recorder):
    """A recorder whose training is on the GPU."""

    def __init__(self, gpu: torch.device, storage: Path, **options: Any) -> None:
        super().__init__(storage, **options)
        self.device = gpu


def on_cpu(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The largest difference between two states, relative to the norm of each tensor."""
    assert first.keys() == second.keys()
    return max(
        float((first[name].double() - value.double()).norm() / value.double().norm().clamp(1e-3))
        for name, value in second.items()
        if value.is_floating_point()
    )


@pytest.mark.usefixtures("_repeatable_convolutions")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_stopped_and_resumed_ends_with_the_same_weights(
    gpu: torch.device, root: Path, precision: str
) -> None:
    """Bit for bit if two runs without a stop are so; else up to the rounding of float32.

    Some kernels add up in an order that differs from run to run.
    """
    spec = spec_of(precision=precision, checkpoint={"every_epochs": 9})
    whole = on_cpu(train(root, OnGpu(gpu, root / "a"), spec))
    again = on_cpu(train(root, OnGpu(gpu, root / "b"), spec))
    with pytest.raises(Stopped):
        train(root, OnGpu(gpu, root / "c", stopped_after=2), spec)
    torch.manual_seed(99)
    torch.cuda.manual_seed(99)
    resumed = on_cpu(train(root, OnGpu(gpu, root / "c"), spec))
    if distance(again, whole) == 0.0:
        assert_same(whole, resumed)
    else:
        assert distance(resumed, whole) < max(1e-3, 10 * distance(again, whole))


def test_a_compiled_network_is_trained_to_the_same_weights(
    gpu: torch.device, images: Images, tmp_path: Path
) -> None:
    spec = spec_of(precision="fp32")
    compiled = spec.model_copy(
        update={"training": spec.training.model_copy(update={"compile": True})}
    )
    ended = []
    for each in (spec, compiled):
        context = OnGpu(gpu, tmp_path)
        pretraining = Pretraining(each, images, context)
        pretraining.network.train()
        for batch in pretraining.batches.epoch(0):
            pretraining.step(batch)
        assert context.warnings == []  # one says that it could not be compiled
        ended.append(on_cpu(dict(pretraining.network.state_dict())))
    plain, fast = ended
    # Biases start at zero, and are a few rounded gradients here.
    assert distance(fast, plain) < 5e-2
