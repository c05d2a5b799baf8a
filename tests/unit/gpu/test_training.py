"""A training step on GPUs: nothing mixes devices, and the host waits for nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.gpu.fake_cuda import CUDA, FakeCuda, fake_cuda
from tests.unit.selfsup.data.test_sources import make_folder, under
from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.context import NullContext
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.data.training_batches import Batch
from vicreg_workers.selfsup.model import network
from vicreg_workers.selfsup.train import Pretraining

METHODS = ["vicreg", "barlow_twins", "simclr", "byol", "simsiam"]
PRECISIONS = ["fp32", "bf16", "fp16"]
OPTIMIZERS = ["lars", "sgd", "adamw"]
PREDICTED = {"stop_gradient": True, "predictor": {"layers": [16]}}
BRANCHES: dict[str, dict[str, Any]] = {
    "shared": {"weights": "shared", "stop_gradient": False, "predictor": None},
    "separate": {"weights": "separate", "stop_gradient": False, "predictor": None},
    "momentum": {"weights": "momentum", **PREDICTED},
    "target": {"weights": "shared", **PREDICTED},
}

BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {"name": "resnet18", "stem": "cifar"},
    "resnet50": {"name": "resnet50", "stem": "cifar"},
    "vit_s": {"name": "vit_s", "patch_size": 4},
}


def spec_of(
    method: str | dict[str, Any] = "vicreg",
    precision: str = "bf16",
    optimizer: str = "lars",
    branches: str = "shared",
    **changes: Any,
) -> PretrainSpec:
    training = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, "precision": precision}
    sections: dict[str, Any] = {
        "method": {"name": method} if isinstance(method, str) else method,
        "branches": BRANCHES[branches],
        "optimizer": {"name": optimizer},
        "training": training,
        "resources": {"gpus_per_worker": 1},
    }
    return spec_for(epochs=3, **(sections | changes))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = tmp_path_factory.mktemp("images")
    make_folder(root / "set", classes=2, images=17)
    return open_images(spec_of().data, under(root))


@pytest.fixture
def _small_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some 200 steps of real backbones would take minutes."""

    def build(*args: Any) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 512, 3), nn.BatchNorm2d(512), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )  # fmt: skip

    monkeypatch.setattr(network, "build_backbone", build)


def views(count: int = 8) -> Batch:
    pair = (torch.empty(count, 3, 8, 8, device=CUDA) for _ in range(2))
    channels_last = tuple(view.contiguous(memory_format=torch.channels_last) for view in pair)
    return Batch(channels_last, list(range(count)), (), torch.zeros(count, 2, 5))


def step(pretraining: Pretraining, batch: Batch, device: FakeCuda) -> None:
    pretraining.network.train()
    losses, norm = pretraining.step(batch)
    assert device.waits == []
    for value in (*losses.terms.values(), losses.std, norm):
        assert value.device == CUDA
        assert value.dtype == torch.float32


@pytest.mark.usefixtures("_small_backbone")
@pytest.mark.parametrize("branches", BRANCHES)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_mixes_no_devices_and_waits_for_nothing(
    images: Images, method: str, branches: str
) -> None:
    for precision, optimizer in product(PRECISIONS, OPTIMIZERS):
        spec = spec_of(method, precision, optimizer, branches)
        with fake_cuda() as device:
            pretraining = Pretraining(spec, images, NullContext(CUDA))
            device.waits.clear()
            step(pretraining, views(), device)
        moved = {each.device for each in pretraining.network.state_dict().values()}
        assert moved == {CUDA}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batches_and_steps_of_real_backbones_wait_for_nothing(
    images: Images, backbone: str
) -> None:
    """Images held on the device: they are cropped and recoloured there."""
    spec = spec_of(backbone=BACKBONES[backbone])
    with fake_cuda() as device:
        pretraining = Pretraining(spec, images, NullContext(CUDA))
        batches = pretraining.batches.epoch(0)
        next(batches)  # it makes constants that later ones use
        device.waits.clear()
        step(pretraining, next(batches), device)


@pytest.mark.usefixtures("_small_backbone")
@pytest.mark.parametrize("processes", [1, 2])
def test_steps_on_local_views_of_images_that_grow_wait_for_nothing(
    images: Images, processes: int
) -> None:
    augmentation = {"preset": "paper", "views": {"local": 2, "local_size": 8}}
    training = {"epochs": 3, "batch_size": 8, "sizes": [[0, 8], [1, 12]]}
    data = {"source": "image_folder", "path": "set", "image_size": 12}
    spec = spec_of(data=data, augmentation=augmentation, training=training)
    with fake_cuda(processes) as device:
        pretraining = Pretraining(spec, images, NullContext(CUDA))
        next(pretraining.batches.epoch(0))  # it makes constants that later ones use
        for epoch, side in ((0, 8), (1, 12)):
            batches = pretraining.batches.epoch(epoch, 1)
            device.waits.clear()
            batch = next(batches)
            assert [view.shape[-1] for view in batch.views] == [side, side, 8, 8]
            step(pretraining, batch, device)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_on_places_waits_for_nothing(images: Images, processes: int) -> None:
    augmentation = {"preset": "paper", "views": {"local": 2, "local_size": 16}}
    data = {"source": "image_folder", "path": "set", "image_size": 16}
    method = {"name": "vicregl", "layers": [16, 16]}
    with fake_cuda(processes) as device:
        spec = spec_of(method=method, data=data, augmentation=augmentation)
        pretraining = Pretraining(spec, images, NullContext(CUDA))
        batches = pretraining.batches.epoch(0)
        next(batches)  # it makes constants that later ones use
        device.waits.clear()
        step(pretraining, next(batches), device)


@pytest.mark.usefixtures("_small_backbone")
@pytest.mark.parametrize("branches", BRANCHES)
@pytest.mark.parametrize("method", METHODS)
def test_one_of_two_processes_waits_for_nothing(images: Images, method: str, branches: str) -> None:
    """Each method has collectives of its own."""
    for precision, optimizer in product(PRECISIONS, OPTIMIZERS):
        spec = spec_of(method, precision, optimizer, branches)
        with fake_cuda(processes=2) as device:
            pretraining = Pretraining(spec, images, NullContext(CUDA))
            device.waits.clear()
            step(pretraining, views(4), device)
            collectives = [name for name in device.kernels if name.startswith("c10d::")]
        assert "c10d::allreduce_" in collectives
