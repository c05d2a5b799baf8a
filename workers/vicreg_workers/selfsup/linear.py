"""The linear probe: a linear classifier on frozen representations.

SGD with momentum 0.9 and a cosine schedule to zero, as in the authors' ``evaluate.py``. Every
learning rate has its own classifier, and all of them are trained at once: the weights are one
tensor ``[L, F, C]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg_platform.specs import LinearProtocol
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.accuracy import top_k_accuracy
from vicreg_workers.selfsup.features import Features

MOMENTUM = 0.9


@dataclass(frozen=True)
class LinearResult:
    """The chosen classifier, measured."""

    scores: Tensor
    """Of the test images, ``[M, C]``."""
    learning_rate: float
    """The one with the best accuracy on the held-out part of the training set."""
    holdout_top1: dict[float, float]
    """That accuracy for every learning rate, in [0, 1]."""


def linear_probe(
    train: Features,
    test: Tensor,
    protocol: LinearProtocol,
    classes: int,
) -> LinearResult:
    """Train one classifier for each learning rate and choose by held-out training images.

    Args:
        train: what to learn from; ``protocol.holdout`` of it only chooses.
        test: representations to classify, ``[M, F]``.
        protocol: epochs, rates, seed.
        classes: number of classes.

    Raises:
        UserFailure: too few images to hold some out.
    """
    generator = torch.Generator().manual_seed(protocol.seed)
    order = torch.randperm(len(train.labels), generator=generator)
    held = round(len(order) * protocol.holdout)
    if held == 0 or held == len(order):
        raise UserFailure(
            f"protocol.holdout {protocol.holdout} of {len(order)} images leaves nothing to "
            "choose the learning rate by, or nothing to train on"
        )
    holdout, rest = order[:held], order[held:]
    # One scale for all features keeps the useful learning rates the same for every encoder.
    mean, scale = _standardisation(train.representations[rest])
    features = (train.representations - mean) / scale
    weights = _train(features[rest], train.labels[rest], protocol, classes, generator)
    top1 = {
        rate: top_k_accuracy(_scores(features[holdout], *chosen), train.labels[holdout], 1)
        for rate, chosen in zip(protocol.learning_rates, weights, strict=True)
    }
    best = max(protocol.learning_rates, key=lambda rate: top1[rate])
    chosen = weights[protocol.learning_rates.index(best)]
    return LinearResult(_scores((test - mean) / scale, *chosen), best, top1)


def _standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(dim=0)
    return mean, (features - mean).pow(2).mean().sqrt().clamp_min(1e-8)


def _train(
    features: Tensor,
    labels: Tensor,
    protocol: LinearProtocol,
    classes: int,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    rates = features.new_tensor(protocol.learning_rates).view(-1, 1, 1)
    weight = features.new_zeros(len(rates), features.shape[1], classes)
    bias = features.new_zeros(len(rates), 1, classes)
    weight_momentum, bias_momentum = torch.zeros_like(weight), torch.zeros_like(bias)
    for epoch in range(protocol.epochs):
        order = torch.randperm(len(labels), generator=generator)
        rate = rates * 0.5 * (1 + math.cos(math.pi * epoch / protocol.epochs))
        for batch in torch.split(order, protocol.batch_size):
            x = features[batch]
            # The gradient of the cross-entropy with respect to the logits, [L, n, C].
            residual = (torch.matmul(x, weight) + bias).softmax(dim=-1)
            residual[:, torch.arange(len(batch)), labels[batch]] -= 1
            residual /= len(batch)
            weight_gradient = torch.matmul(x.T, residual) + protocol.weight_decay * weight
            weight_momentum.mul_(MOMENTUM).add_(weight_gradient)
            bias_momentum.mul_(MOMENTUM).add_(residual.sum(dim=1, keepdim=True))
            weight -= rate * weight_momentum
            bias -= rate * bias_momentum
    return list(zip(weight, bias, strict=True))


def _scores(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return features @ weight + bias
