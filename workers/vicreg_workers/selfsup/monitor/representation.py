"""Measures a network on fixed images: rank, covariance, spread, nearest neighbours."""

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
"""At most 4,000 images are measured. The embeddings and the spectrum are those of 2,000 of them.
A quarter of all is classified by nearest neighbours among the rest."""
TRAINED_PER_MEASURED = 50
"""Images trained on for each one measured. On a CPU, training on an image costs 8 times as much, so
measuring takes 0.25 % of the time (docs/performance.md). The rest leaves room for GPUs, which speed
up the training, but not the figure and hardly the eigenvalues."""
FEWEST = 5
"""Fewest measurements of a training: even a short one needs a curve, whatever it costs."""
KEPT_BYTES = 2**29
"""Views are kept in memory if they need no more bytes: up to 211 pixels, they do not."""
NEIGHBOURS, TEMPERATURE = 20, 0.07
FITTED_RANKS = (3, 100)
FEWEST_SAMPLES = 1000
"""For α-ReQ: with fewer, chance alone moves it by 0.05."""
MOST_ADDED = 0.14
"""Of an eigenvalue that is still fitted: with more, α is moved by 0.05 and more."""


@dataclass(frozen=True)
class Diagnosis:
    """Statistics of fixed images, without augmentation, with the network in eval mode."""

    embedding_std: Tensor
    """Standard deviation of each dimension of the embedding, ``[D]``."""
    finite: bool
    """Whether all representations and embeddings are. If not, nothing else is measured."""
    representation: dict[str, float]
    """Metrics by name."""
    knn_top1: float | None
    """Accuracy of weighted nearest neighbours, in [0, 1], if asked for."""

    def metrics(self) -> dict[str, float]:
        """The metrics by their names in the run."""
        metrics = {f"representation/{name}": v for name, v in self.representation.items()}
        return metrics if self.knn_top1 is None else metrics | {"knn/top1": self.knn_top1}


class Diagnostics:
    """Measures a network during training, always on the same images.

    Args:
        images: the training images; a fixed part of them is used.
        image_size: side of a view, in pixels.
        device: where the network is.
        loaders: processes that read images; with 0, this process reads them.
        autocast: makes the precision context that the network is trained in.
        epochs: epochs of the training.
    """

    every_epochs: int
    """Epochs between two measurements, chosen so that 50 × workers images are trained per image
    measured, but that there are at least 5 measurements."""

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
        self._device = device
        self._loaders = loaders
        self._autocast = autocast
        measured = len(self._images)
        # While one worker measures, the others wait.
        cheap = ceil(TRAINED_PER_MEASURED * measured * world_size() / len(images))
        self.every_epochs = min(cheap, max(1, epochs // FEWEST))
        self._view = PlainView(image_size)
        self._keeps = measured * self._view.bytes <= KEPT_BYTES
        self._kept: list[PlainBatch] = []

    @torch.no_grad()
    def of(self, network: JointEmbedding, neighbours: bool) -> Diagnosis:
        """Measure the network. Its mode is left as it was.

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
        """Batches of the first images, or a few more to fill the last batch."""
        if not self._keeps:
            return self._made(Subset(self._images, range(min(count, len(self._images)))))
        if not self._kept:
            self._kept = list(self._made(self._images))
        return self._kept[: ceil(count / BATCH_SIZE)]

    def _made(self, images: Images) -> Iterable[PlainBatch]:
        return plain_batches(images, self._view, BATCH_SIZE, self._loaders)

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
    std, alpha = z.std(dim=0), alpha_req(z)
    metrics = {
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "covariance": float(covariance(z)),
        "rankme": rankme(z),
    }
    return metrics if alpha is None else metrics | {"alpha_req": alpha}


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


def alpha_req(z: Tensor) -> float | None:
    """Decay of the eigenvalues of the representation's covariance: λ_i ∝ i^(-α).

    Args:
        z: ``[N, D]``.

    Returns:
        α, the negative slope of log λ over log i, fitted to ranks 3 to 100 with weights 1/i. Values
        near 1 are considered good; 0 means white, a large value few dimensions. None if N is too
        small for D: α would then be that of the sample. Of power laws from 0.5 to 1.5, it is within
        0.05.

    Source: Agrawal et al. 2022 (α-ReQ, NeurIPS), section 3; ranks and weights are those of its
    authors' code, after Stringer et al. 2019.
    """
    eigenvalues = _squared_singular_values(z - z.mean(dim=0))
    eigenvalues = eigenvalues[eigenvalues > eigenvalues.max() * 1e-10]
    first, last = FITTED_RANKS
    last = min(last, len(eigenvalues))
    if len(z) < FEWEST_SAMPLES or last <= first:
        return None
    # In a sample, the directions beyond a rank add about their sum over N to its eigenvalue
    # (Lawley 1956).
    added = eigenvalues[last:].sum() / (len(z) * eigenvalues[last - 1])
    if added > MOST_ADDED:
        return None
    rank = torch.arange(first, last + 1, device=z.device).double()
    x, y, weight = rank.log(), eigenvalues[first - 1 : last].log(), 1 / rank
    x, y = (each - (weight * each).sum() / weight.sum() for each in (x, y))
    return float(-(weight * x * y).sum() / (weight * x.square()).sum())


def _squared_singular_values(z: Tensor) -> Tensor:
    """Of ``[N, D]``, descending, float64: exact to 1e-8 of the largest singular value.

    Computed as the eigenvalues of the smaller of ZᵀZ and ZZᵀ: less work than decomposing Z.
    """
    z = z.double()
    gram = z.T @ z if z.shape[1] < z.shape[0] else z @ z.T
    ascending: Tensor = torch.linalg.eigvalsh(gram)
    return ascending.clamp_min(0.0).flip(0)
