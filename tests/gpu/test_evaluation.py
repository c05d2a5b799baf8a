"""Evaluations on a GPU find what they find on the CPU."""

from __future__ import annotations

import pytest
import torch

from tests.unit.selfsup.evaluation.test_probes import blobs
from vicreg_platform.specs import Backbone, LinearProtocol
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.evaluation.features import (
    Features,
    calibrate_batchnorm,
    extract_features,
)
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import linear_probe
from vicreg_workers.selfsup.model.backbones import build_backbone


def moved(features: Features, device: torch.device) -> Features:
    return Features(
        features.representations.to(device), features.labels.to(device), features.indices, ()
    )


@pytest.mark.usefixtures("_without_tf32")
def test_representations_are_those_of_the_cpu(gpu: torch.device, images: Images) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(Backbone(name="resnet18", stem="cifar"), 16)
    calibrate_batchnorm(backbone, images, 16, torch.device("cpu"))
    here = extract_features(backbone, images, 16, torch.device("cpu"))
    backbone.to(gpu, memory_format=torch.channels_last)  # type: ignore[call-overload]
    there = extract_features(backbone, images, 16, gpu)
    assert there.representations.device == gpu
    torch.testing.assert_close(
        there.representations.cpu(), here.representations, rtol=1e-3, atol=1e-3
    )
    assert torch.equal(there.labels.cpu(), here.labels)


def test_neighbours_vote_as_on_the_cpu(gpu: torch.device) -> None:
    train, test = blobs(2000, seed=0, noise=2.0), blobs(300, seed=1, noise=2.0)
    here = knn_scores(train, test.representations, 20, 0.07, 3)
    there = knn_scores(moved(train, gpu), test.representations.to(gpu), 20, 0.07, 3).cpu()
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)


def test_a_probe_learns_what_it_learns_on_the_cpu(gpu: torch.device) -> None:
    train, test = blobs(600, seed=0), blobs(200, seed=1)
    protocol = LinearProtocol(name="linear", epochs=5, batch_size=64, learning_rates=(0.1, 1.0))
    here = linear_probe(train, train.labels, test.representations, protocol, 3)
    on_gpu = moved(train, gpu)
    there = linear_probe(on_gpu, on_gpu.labels, test.representations.to(gpu), protocol, 3)
    assert there.learning_rate == here.learning_rate
    torch.testing.assert_close(there.scores.cpu(), here.scores, rtol=1e-3, atol=1e-3)
