"""The joint embedding network: two branches, each a backbone and an expander."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from vicreg_platform.specs import Backbone, Expander, PretrainSpec, VICRegL
from vicreg_workers.selfsup.model.backbones import build_backbone, representation_size
from vicreg_workers.selfsup.model.feature_map import map_and_representation, map_width
from vicreg_workers.selfsup.model.small_convolution import multiply_small_maps


class Embeddings(NamedTuple):
    """The network's output for a batch of view pairs."""

    first: Tensor
    """Embeddings of the first views, ``[N, D]``."""
    second: Tensor
    """Embeddings of the second views that carry a gradient, ``[N, D]``."""
    pairs: tuple[tuple[Tensor, Tensor], ...]
    """Embeddings to pull together, each ``[N, D]``: (first, second), or (prediction, target) with
    each view predicting the other."""
    local: Tensor | None = None
    """Embeddings of the L local views, if there are any, ``[L, N, D]``."""
    places: tuple[Tensor, ...] = ()
    """With method vicregl, embeddings of the P places of the feature map of the first view, of the
    second ``[P, N, E]``, and of the local ones, if there are any, ``[L, Q, N, E]``."""


class JointEmbedding(nn.Module):
    """Two branches, from views to embeddings.

    ``backbone`` and ``expander`` are the first branch, whose backbone a run publishes. ``second``
    is the second branch if it has weights of its own. ``predictor``, if any, follows the first.
    """

    frozen = False
    """Whether the backbones that ``init`` is for do not learn, and stay in eval mode."""

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
        self.places_expander: nn.Module | None = None
        if isinstance(spec.method, VICRegL):
            layers = spec.expander.model_copy(update={"layers": spec.method.layers})
            self.places_expander = build_expander(layers, map_width(self.backbone, size))
        self._other_backbone = branches.backbone is not None
        self._moving = branches.weights == "momentum"
        self._momentum = branches.momentum
        self._stop_gradient = branches.stop_gradient or self._moving
        self._symmetric = self._stop_gradient or (
            branches.predictor is not None and self.second is None
        )

    def forward(self, first: Tensor, second: Tensor, *local: Tensor) -> Embeddings:
        """Compute the embeddings of two batches of views ``[N, 3, S, S]`` and of local views.

        As in the authors' code, one batch passes after the other: BatchNorm sees each alone. Local
        views, which are smaller, are one batch together.

        Args:
            first: the first views.
            second: the second views.
            local: local views ``[N, 3, s, s]``. They need branches that are alike.
        """
        if self.places_expander is not None:
            return self._embed_places(self.places_expander, first, second, local)
        x = self.embed(first)
        if not self._symmetric:
            y = self.embed(second) if self.second is None else self.second(second)
            return Embeddings(x, y, ((self._predicted(x), y),), self._embed_local(local))
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

    def _embed_places(
        self, expander: nn.Module, first: Tensor, second: Tensor, local: tuple[Tensor, ...]
    ) -> Embeddings:
        """The embeddings of views and of the places of their maps."""
        embeddings, places = [], []
        for views in (first, second, *([torch.cat(local)] if local else [])):
            maps, representation = map_and_representation(self.backbone, views)
            embeddings.append(self.expander(representation))
            embedded = expander(maps.flatten(0, 1))
            # The images come last but one, as in the embeddings of local views.
            places.append(embedded.view(*maps.shape[:2], -1).transpose(0, 1))
        x, y, *rest = embeddings
        if not rest:
            return Embeddings(x, y, ((x, y),), None, tuple(places))
        count, images = len(local), len(first)
        few = places[2].unflatten(1, (count, images)).transpose(0, 1)
        return Embeddings(
            x, y, ((x, y),), rest[0].view(count, images, -1), (places[0], places[1], few)
        )

    def _embed_local(self, views: tuple[Tensor, ...]) -> Tensor | None:
        if not views:
            return None
        embeddings = self.embed(torch.cat(views))
        return embeddings.view(len(views), len(views[0]), -1)

    def started_backbones(self) -> list[nn.Module]:
        """The backbones that ``init`` is for: those of the first one's architecture."""
        if self.second is None or self._other_backbone:
            return [self.backbone]
        return [self.backbone, self.second.backbone]

    def learning_backbones(self) -> list[nn.Module]:
        """The backbones that learn by their gradient: not that of a moving branch."""
        if self.second is None or self._moving:
            return [self.backbone]
        return [self.backbone, self.second.backbone]

    def freeze(self, frozen: bool) -> None:
        """Freeze the backbones that ``init`` is for, or thaw them."""
        self.frozen = frozen
        started = self.started_backbones()
        for backbone in self.learning_backbones():
            if backbone in started:
                backbone.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules; frozen backbones are always in eval mode."""
        super().train(mode)
        if self.frozen:
            for backbone in self.started_backbones():
                backbone.eval()
        return self

    @torch.no_grad()
    def share_start(self) -> None:
        """Give the weights of the first backbone to the second one that ``init`` is for, if any."""
        for backbone in self.started_backbones()[1:]:
            backbone.load_state_dict(self.backbone.state_dict())

    @torch.no_grad()
    def move_branch(self, step: int, steps: int, found_inf: Tensor) -> None:
        """Move the moving branch, if any, towards the first one after step ``step``, from 0.

        Args:
            step: in [0, steps).
            steps: of the whole run.
            found_inf: a scalar on the branch's device: 1.0 if it must stay where it is, else 0.0.
        """
        moving, followed = self.momentum_pairs()
        if moving:
            weight = (1 - momentum_at(step, steps, self._momentum)) * (1 - found_inf)
            torch._foreach_lerp_(moving, followed, [weight] * len(moving))

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


def build_network(spec: PretrainSpec, device: torch.device) -> JointEmbedding:
    """Build a spec's network on a device, in the form that is fast there."""
    network = JointEmbedding(spec)
    if device.type == "cuda":
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        # On CPUs the views' layout is enough, and the gradients of plain weights need no copy.
        multiply_small_maps(network)
    return network


class _Branch(nn.Module):
    def __init__(self, backbone: Backbone, expander: Expander, image_size: int) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone, image_size)
        self.expander = build_expander(expander, representation_size(self.backbone, image_size))

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
