"""The linear probe: a linear classifier on frozen representations.

SGD with momentum 0.9 and a cosine to zero, as in the authors' ``evaluate.py``. Every learning rate
has its own classifier, and all are trained at once: the weights are one tensor ``[L, F, C]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg_platform.specs import LinearProtocol
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import CHUNK, Features, chunks
from vicreg_workers.selfsup.evaluation.metrics import mean_average_precision, top_k_accuracy

MOMENTUM = 0.9

Epoch = Iterator[tuple[Tensor, Tensor]]
"""Batches of representations ``[n, F]`` and their indices in the training features, ``[n]``, both
on the features' device."""


@dataclass(frozen=True)
class LinearResult:
    """The scores of the chosen classifier."""

    scores: Tensor
    """Of the test images, ``[M, C]``."""
    learning_rate: float
    """The rate that does best on the held-out training images."""
    holdout: dict[float, float]
    """How well each rate does there, in [0, 1]; empty if there is only one."""


def linear_probe(
    train: Features,
    targets: Tensor,
    test: Tensor,
    protocol: LinearProtocol,
    classes: int,
    fresh: Callable[[list[int]], Callable[[int], Epoch]] | None = None,
) -> LinearResult:
    """Train one classifier per learning rate and choose one by held-out training images.

    Args:
        train: what to learn from. With several rates, the share ``protocol.holdout`` is held out.
        targets: labels ``[N]``, or ``[N, C]`` of 1, 0, or -1 for unknown if images have several.
        test: representations to classify, ``[M, F]``.
        protocol: epochs, rates, seed.
        classes: number of classes.
        fresh: given the indices of the training images, returns a function that makes new
            representations of them for an epoch. None to use those of ``train`` in every epoch.

    Raises:
        InvalidInput: too few images to hold some out.
    """
    generator = torch.Generator().manual_seed(protocol.seed)
    order = torch.randperm(len(targets), generator=generator)
    held = round(len(order) * protocol.holdout) if len(protocol.learning_rates) > 1 else 0
    if held == len(order) or (held == 0 and len(protocol.learning_rates) > 1):
        raise InvalidInput(
            f"protocol.holdout {protocol.holdout} of {len(order)} images leaves nothing to "
            "choose the learning rate by, or nothing to train on"
        )
    holdout, rest = order[:held], order[held:]
    if protocol.standardize:
        mean, scale = _standardisation(train.representations, rest)
    else:
        mean = torch.zeros(test.shape[1], device=test.device)
        scale = torch.ones((), device=test.device)

    def cached(epoch: int) -> Epoch:
        shuffled = rest[torch.randperm(len(rest), generator=generator)]
        # Once an epoch: every copy to a GPU may wait for it.
        shuffled = shuffled.to(test.device, non_blocking=True)
        for places in torch.split(shuffled, protocol.batch_size):
            yield train.representations.index_select(0, places).float(), places

    epochs = cached if fresh is None else fresh(rest.tolist())
    classifiers = _Classifiers(protocol, test.shape[1], classes, test.device)
    for epoch in range(protocol.epochs):
        classifiers.start(epoch)
        for representations, places in epochs(epoch):
            classifiers.step((representations - mean) / scale, targets[places])

    def scores(features: Tensor, place: int) -> Tensor:
        standardised = ((chunk - mean) / scale for chunk in chunks(features))
        return torch.cat([classifiers.scores(chunk, place) for chunk in standardised])

    rates = protocol.learning_rates
    if not held:
        return LinearResult(scores(test, 0), rates[0], {})
    features = train.representations[holdout]
    quality = {
        rate: _quality(scores(features, place), targets[holdout])
        for place, rate in enumerate(rates)
    }
    best = max(rates, key=lambda rate: quality[rate])
    return LinearResult(scores(test, rates.index(best)), best, quality)


class _Classifiers:
    """One linear classifier per learning rate."""

    def __init__(
        self, protocol: LinearProtocol, inputs: int, classes: int, device: torch.device
    ) -> None:
        self._protocol = protocol
        self._rates = torch.tensor(protocol.learning_rates, device=device).view(-1, 1, 1)
        count = len(self._rates)
        self._weight = torch.zeros(count, inputs, classes, device=device)
        self._bias = torch.zeros(count, 1, classes, device=device)
        self._weight_momentum = torch.zeros_like(self._weight)
        self._bias_momentum = torch.zeros_like(self._bias)
        self._rate = self._rates

    def start(self, epoch: int) -> None:
        """Set the learning rates of an epoch."""
        cosine = 0.5 * (1 + math.cos(math.pi * epoch / self._protocol.epochs))
        self._rate = self._rates * cosine

    def step(self, x: Tensor, targets: Tensor) -> None:
        """Train all on features ``[n, F]`` and targets ``[n]`` or ``[n, C]``."""
        residual = _residual(torch.matmul(x, self._weight) + self._bias, targets) / len(x)
        decay = self._protocol.weight_decay * self._weight
        self._weight_momentum.mul_(MOMENTUM).add_(torch.matmul(x.T, residual) + decay)
        self._bias_momentum.mul_(MOMENTUM).add_(residual.sum(dim=1, keepdim=True))
        self._weight -= self._rate * self._weight_momentum
        self._bias -= self._rate * self._bias_momentum

    def scores(self, x: Tensor, place: int) -> Tensor:
        """Logits ``[n, C]`` of the classifier of one rate."""
        return x @ self._weight[place] + self._bias[place]


def _residual(logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient of each image's cross-entropy with respect to the logits ``[L, n, C]``.

    The cross-entropy is over the classes if images have one label, and per class if several.
    """
    if targets.ndim == 1:
        residual = logits.softmax(dim=-1)
        residual[:, torch.arange(len(targets), device=targets.device), targets] -= 1
        return residual
    return (logits.sigmoid() - targets.clamp_min(0)) * (targets >= 0)


def _quality(scores: Tensor, targets: Tensor) -> float:
    if targets.ndim == 1:
        return top_k_accuracy(scores, targets, 1)
    return mean_average_precision(scores, targets)


def _standardisation(features: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``[F]`` of the features at some places, and the root mean square around it."""
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    square = torch.zeros((), dtype=torch.float64, device=features.device)
    for some in torch.split(places, CHUNK):
        mean += features[some].sum(dim=0, dtype=torch.float64) / len(places)
    centre = mean.float()
    for some in torch.split(places, CHUNK):
        square += (features[some] - centre).square().mean(dtype=torch.float64) * len(some)
    return centre, (square / len(places)).sqrt().float().clamp_min(1e-8)
