"""Whether the encoder learns, or collapses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch, plain_batches
from vicreg_workers.selfsup.data.sources import Images, Subset
from vicreg_workers.selfsup.data.transforms import PlainView
from vicreg_workers.selfsup.distributed import world_size
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import BATCH_SIZE, Features, features_of
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.loss.vicreg import covariance
from vicreg_workers.selfsup.model.network import JointEmbedding

MEASURED, SAMPLE = 4000, 2000
"""Images that are measured at most, and those of them whose embeddings and spectrum are. A quarter
of the former is classified by the votes of the rest."""
TRAINED_PER_MEASURED = 50
"""Images trained on for each that is measured: on a CPU one costs eight times the other, and so the
measurements a quarter of a percent of the training (docs/performance.md). The rest is room for
GPUs, which do the training faster but not the figure and little of the eigenvalues."""
FEWEST = 5
"""Measurements of a training, at least: a short one is worth a curve, whatever it costs."""
KEPT_BYTES = 2**29
"""Views are made once and kept in memory where they take no more: those of 105 pixels do."""
NEIGHBOURS, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class Diagnosis:
    """Statistics of fixed images, seen without augmentation in eval mode."""

    embedding_std: Tensor
    """Standard deviation of each dimension of the embedding, ``[D]``."""
    finite: bool
    """Whether all representations and embeddings are; where not, nothing else is measured."""
    representation: dict[str, float]
    """Metrics by name."""
    knn_top1: float | None
    """Accuracy of weighted nearest neighbours, in [0, 1], where it was asked for."""

    def metrics(self) -> dict[str, float]:
        """By their names in the run."""
        metrics = {f"representation/{name}": v for name, v in self.representation.items()}
        return metrics if self.knn_top1 is None else metrics | {"knn/top1": self.knn_top1}


class Diagnostics:
    """Measures a network in training, always on the same images.

    Args:
        images: the training images; a fixed part of them is used.
        image_size: side of a view, in pixels.
        device: where the network is.
        loaders: processes that read images beside this one.
        autocast: makes the context that the network is trained in.
        epochs: of the training.
    """

    every_epochs: int
    """How often to measure without the training taking noticeably longer."""

    def __init__(
        self,
        images: Images,
        image_size: int,
        device: torch.device,
        loaders: int,
        autocast: Callable[[], AbstractContextManager[object]],
        epochs: int,
    ) -> None:
        self._has_classes = len(images.classes) > 1 and images.several is None
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
        self._images = Subset(images, order[: MEASURED if self._has_classes else SAMPLE])
        self._image_size = image_size
        self._device = device
        self._loaders = loaders
        self._autocast = autocast
        measured = len(self._images)
        # The other workers wait for the one that measures.
        cheap = ceil(TRAINED_PER_MEASURED * measured * world_size() / len(images))
        self.every_epochs = min(cheap, max(1, epochs // FEWEST))
        view_bytes = 3 * image_size**2 * 4
        self._keeps = measured * view_bytes <= KEPT_BYTES
        self._kept: list[PlainBatch] = []

    @torch.no_grad()
    def of(self, network: JointEmbedding, neighbours: bool) -> Diagnosis:
        """The network's diagnosis; its mode is left as it was.

        Args:
            network: what to measure.
            neighbours: whether to classify by nearest neighbours too, if the images have classes.

        Raises:
            InvalidInput: fewer than two of the images can be read.
        """
        was_training = network.training
        network.eval()
        batches = self._batches(MEASURED if neighbours else SAMPLE)
        with self._autocast():
            features = features_of(network.backbone, batches, self._images.labels, self._device)
            sample = features.representations[features.indices < SAMPLE]
            if len(sample) < 2:
                raise InvalidInput("data: fewer than two of the images measured can be read")
            embedding = network.expander(sample).float()
        network.train(was_training)
        outputs = (features.representations, embedding)
        finite = all(bool(torch.isfinite(each).all()) for each in outputs)
        return Diagnosis(
            embedding_std=embedding.std(dim=0).cpu(),
            finite=finite,
            representation=_representation_metrics(sample) if finite else {},
            knn_top1=self._knn(features) if finite and neighbours else None,
        )

    def _batches(self, count: int) -> Iterable[PlainBatch]:
        """The first images, or a few more to fill a batch."""
        if not self._keeps:
            return self._made(Subset(self._images, range(min(count, len(self._images)))))
        if not self._kept:
            self._kept = list(self._made(self._images))
        return self._kept[: ceil(count / BATCH_SIZE)]

    def _made(self, images: Images) -> Iterable[PlainBatch]:
        return plain_batches(images, PlainView(self._image_size), BATCH_SIZE, self._loaders)

    def _knn(self, features: Features) -> float | None:
        asked = features.indices < len(self._images) // 4
        if not self._has_classes or asked.all() or not asked.any():
            return None
        bank, queries = features.only(~asked), features.only(asked)
        k = min(NEIGHBOURS, len(bank.labels))
        classes = len(self._images.classes)
        scores = knn_scores(bank, queries.representations, k, TEMPERATURE, classes)
        return top_k_accuracy(scores, queries.labels, 1)


def _representation_metrics(z: Tensor) -> dict[str, float]:
    std = z.std(dim=0)
    return {
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "covariance": float(covariance(z)),
        "rankme": rankme(z),
        "alpha_req": alpha_req(z),
    }


def rankme(z: Tensor) -> float:
    """Effective rank: the exponential of the entropy of the normalised singular values.

    Args:
        z: ``[N, D]``.

    Returns:
        A number in [1, min(N, D)].

    Source: Garrido et al. 2023 (arXiv 2210.02885), equation 1.
    """
    singular_values = _squared_singular_values(z).sqrt()
    p = singular_values / singular_values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def alpha_req(z: Tensor) -> float:
    """How fast the eigenvalues of the representation's covariance fall: λ_i ∝ i^(-α).

    Args:
        z: ``[N, D]``.

    Returns:
        α, the negative slope of log λ over log i by least squares. Near 1 is held to be good, 0
        is white, a large value is a representation of few dimensions.

    Source: Agrawal et al. 2022 (α-ReQ, NeurIPS), section 3.
    """
    eigenvalues = _squared_singular_values(z - z.mean(dim=0))
    eigenvalues = eigenvalues[eigenvalues > eigenvalues.max() * 1e-10]
    if len(eigenvalues) < 2:
        return 0.0
    x = torch.arange(1, len(eigenvalues) + 1, device=z.device).double().log()
    y = eigenvalues.log()
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / x.square().sum())


def _squared_singular_values(z: Tensor) -> Tensor:
    """Of ``[N, D]``, descending, float64: exact to 1e-8 of the largest singular value.

    As eigenvalues of the smaller of ZᵀZ and ZZᵀ: less work than a decomposition of Z.
    """
    z = z.double()
    gram = z.T @ z if z.shape[1] < z.shape[0] else z @ z.T
    ascending: Tensor = torch.linalg.eigvalsh(gram)
    return ascending.clamp_min(0.0).flip(0)
