"""The joint embedding network: two branches, each a backbone and an expander."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg_platform.specs import Backbone, Expander, PretrainSpec
from vicreg_workers.selfsup.model.backbones import build_backbone, representation_size


class Embeddings(NamedTuple):
    """The network's output for a batch of view pairs."""

    first: Tensor
    """Embeddings of the first views, ``[N, D]``."""
    second: Tensor
    """Embeddings of the second views that carry a gradient, ``[N, D]``."""
    pairs: tuple[tuple[Tensor, Tensor], ...]
    """Embeddings to pull together, each ``[N, D]``: (first, second), or (prediction, target) with
    each view predicting the other."""


class JointEmbedding(nn.Module):
    """Two branches, from views to embeddings.

    ``backbone`` and ``expander`` are the first branch, whose backbone a run publishes. ``second``
    is the second branch if it has weights of its own. ``predictor``, if any, follows the first.
    """

    def __init__(self, spec: PretrainSpec) -> None:
        super().__init__()
        size = spec.data.image_size
        branches = spec.branches
        first = _Branch(spec.backbone, spec.expander, size)
        self.backbone, self.expander = first.backbone, first.expander
        self.second: _Branch | None = None
        if branches.weights == "separate":
            self.second = _Branch(branches.backbone or spec.backbone, spec.expander, size)
        elif branches.weights == "momentum":
            self.second = copy.deepcopy(first).requires_grad_(False)
        self.predictor: nn.Module | None = None
        if branches.predictor is not None:
            width = spec.expander.layers[-1]
            self.predictor = _perceptron(
                [width, *branches.predictor.layers, width], branches.predictor.batchnorm, bias=True
            )
        self._moving = branches.weights == "momentum"
        self._momentum = branches.momentum
        self._stop_gradient = branches.stop_gradient or self._moving
        self._symmetric = self._stop_gradient or (
            branches.predictor is not None and self.second is None
        )

    def forward(self, first: Tensor, second: Tensor) -> Embeddings:
        """Compute the embeddings of two batches of views ``[N, 3, S, S]``.

        As in the authors' code, one batch passes after the other: BatchNorm sees each alone.
        """
        x = self.embed(first)
        if not self._symmetric:
            y = self.embed(second) if self.second is None else self.second(second)
            return Embeddings(x, y, ((self._predicted(x), y),))
        y = self.embed(second)
        pairs = (
            (self._predicted(x), self._target(second, y)),
            (self._predicted(y), self._target(first, x)),
        )
        return Embeddings(x, y, pairs)

    def embed(self, views: Tensor) -> Tensor:
        """Compute the first branch's embeddings ``[N, D]`` of views."""
        embedding: Tensor = self.expander(self.backbone(views))
        return embedding

    @torch.no_grad()
    def move_branch(self, step: int, steps: int) -> None:
        """Move the moving branch, if any, towards the first one after step ``step``, from 0."""
        moving, followed = self.momentum_pairs()
        if moving:
            momentum = momentum_at(step, steps, self._momentum)
            torch._foreach_lerp_(moving, followed, 1 - momentum)

    def momentum_pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters of the moving branch and those they follow. Empty without one."""
        if not self._moving:
            return [], []
        assert self.second is not None
        followed: list[Tensor] = [*self.backbone.parameters(), *self.expander.parameters()]
        return list(self.second.parameters()), followed

    def _predicted(self, embedding: Tensor) -> Tensor:
        if self.predictor is None:
            return embedding
        prediction: Tensor = self.predictor(embedding)
        return prediction

    def _target(self, views: Tensor, embedding: Tensor) -> Tensor:
        if self._moving:
            assert self.second is not None
            with torch.no_grad():
                moving: Tensor = self.second(views)
            return moving
        return embedding.detach() if self._stop_gradient else embedding


class _Branch(nn.Module):
    def __init__(self, backbone: Backbone, expander: Expander, image_size: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, image_size)
        self.expander = build_expander(expander, representation_size(backbone))

    def forward(self, views: Tensor) -> Tensor:
        embedding: Tensor = self.expander(self.backbone(views))
        return embedding


class _OnSphere(nn.Module):
    """Scales each embedding to norm 1."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x.float(), dim=1)


def build_expander(spec: Expander, inputs: int) -> nn.Sequential:
    """Build the expander: representations ``[N, inputs]`` to embeddings ``[N, spec.layers[-1]]``.

    As ``Projector`` in the authors' ``main_vicreg.py``: Linear-BatchNorm-ReLU for each layer but
    the last, which is linear without bias. The normalisation that the spec asks for follows.
    """
    expander = _perceptron([inputs, *spec.layers], spec.batchnorm, bias=False)
    if spec.normalization == "standardize":
        expander.append(nn.BatchNorm1d(spec.layers[-1], affine=False))
    elif spec.normalization == "l2":
        expander.append(_OnSphere())
    return expander


def _perceptron(widths: Sequence[int], batchnorm: bool, bias: bool) -> nn.Sequential:
    """Linear-BatchNorm-ReLU to each width but the last, then Linear, with ``bias`` or without."""
    modules: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        modules.append(nn.Linear(before, after))
        if batchnorm:
            modules.append(nn.BatchNorm1d(after))
        modules.append(nn.ReLU(inplace=True))
    modules.append(nn.Linear(widths[-2], widths[-1], bias=bias))
    return nn.Sequential(*modules)


def momentum_at(step: int, steps: int, base: float) -> float:
    """The moving average's momentum: from ``base`` to 1 on a cosine (Grill et al. 2020, 3.3).

    Args:
        step: in [0, steps].
        steps: of the whole run.
        base: τ of the first step, in [0, 1].
    """
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
