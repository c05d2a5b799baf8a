"""Evaluating on GPUs: nothing mixes devices, and batches go there as bytes, without a wait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unit.gpu.fake_cuda import CUDA, fake_cuda
from tests.unit.selfsup.data.test_sources import make_folder, under
from tests.unit.selfsup.test_train import spec_for
from vicreg_platform.specs import FinetuneProtocol, LinearProtocol
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.evaluation.features import Features, extract_features
from vicreg_workers.selfsup.evaluation.finetune import finetune
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import linear_probe


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root: Path = tmp_path_factory.mktemp("images")
    make_folder(root / "set", classes=2, images=9)
    return open_images(spec_for(epochs=1).data, under(root))


def encoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).to(CUDA)


def features(count: int) -> Features:
    representations = torch.empty(count, 16, device=CUDA)
    labels = torch.zeros(count, dtype=torch.long, device=CUDA)
    return Features(representations, labels, torch.arange(count), ())


def test_representations_are_computed_without_a_wait(images: Images) -> None:
    with fake_cuda() as device:
        network = encoder()
        extract_features(network, images, 8, CUDA)
        device.waits.clear()
        found = extract_features(network, images, 8, CUDA)
        assert found.representations.device == found.labels.device == CUDA
        # All batches have passed: the labels are copied once.
        assert [wait.split(" at ")[0] for wait in device.waits] == ["aten::_to_copy from cpu"]


def test_neighbours_are_found_without_a_wait() -> None:
    with fake_cuda() as device:
        scores = knn_scores(features(32), features(8).representations, 3, 0.1, 2)
        assert scores.device == CUDA
        assert device.waits == []


def test_a_probe_is_trained_without_a_wait() -> None:
    waits = []
    for epochs in (1, 3):
        protocol = LinearProtocol(name="linear", epochs=epochs, batch_size=8, learning_rates=(0.1,))
        with fake_cuda() as device:
            train = features(32)
            result = linear_probe(train, train.labels, features(8).representations, protocol, 2)
            assert result.scores.device == CUDA
            waits.append(device.waits)
    assert waits[0] == waits[1]


def test_an_encoder_is_trained_further_without_a_wait_a_batch(images: Images) -> None:
    waits = []
    for epochs in (1, 3):
        protocol = FinetuneProtocol(name="finetune", epochs=epochs, batch_size=6)
        with fake_cuda() as device:
            finetune(encoder(), images, protocol, image_size=8, device=CUDA, loaders=0)
            waits.append(len(device.waits))
    assert waits[0] == waits[1]
