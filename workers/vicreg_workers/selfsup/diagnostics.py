"""Whether the encoder learns, or collapses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vicreg_workers.selfsup.accuracy import top_k_accuracy
from vicreg_workers.selfsup.features import Features, extract_features
from vicreg_workers.selfsup.images import Images, Subset
from vicreg_workers.selfsup.knn import knn_scores
from vicreg_workers.selfsup.loading import plain_batches
from vicreg_workers.selfsup.losses import covariance
from vicreg_workers.selfsup.network import JointEmbedding
from vicreg_workers.selfsup.views import PlainView

SAMPLE_SIZES = (256, 2048)
"""Fewest and most images that the representation is measured on: a tenth of the set between."""
BANK_SIZE, QUERY_SIZE = 4096, 1024
"""Images that vote and images that are classified, at most; of a small set, four to one."""
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
    """

    def __init__(self, images: Images, image_size: int, device: torch.device, loaders: int) -> None:
        fewest, most = SAMPLE_SIZES
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
        self._sample = Subset(images, order[: min(most, max(fewest, len(images) // 10))])
        queries = min(QUERY_SIZE, len(images) // 5)
        self._queries = Subset(images, order[:queries])
        self._bank = Subset(images, order[queries : queries + BANK_SIZE])
        self._image_size = image_size
        self._device = device
        self._loaders = loaders

    @torch.no_grad()
    def of(self, network: JointEmbedding, neighbours: bool) -> Diagnosis:
        """The network's diagnosis; its mode is left as it was.

        Args:
            network: what to measure.
            neighbours: whether to classify by nearest neighbours too.
        """
        was_training = network.training
        network.eval()
        representations, embeddings = [], []
        for views, _, _ in plain_batches(
            self._sample, PlainView(self._image_size), batch_size=128, loaders=self._loaders
        ):
            if len(views):
                representation = network.backbone(views.to(self._device)).float()
                representations.append(representation)
                embeddings.append(network.expander(representation).float())
        representation, embedding = torch.cat(representations), torch.cat(embeddings)
        finite = bool(torch.isfinite(representation).all() and torch.isfinite(embedding).all())
        diagnosis = Diagnosis(
            embedding_std=embedding.std(dim=0).cpu(),
            finite=finite,
            representation=_representation_metrics(representation) if finite else {},
            knn_top1=self._knn(network) if finite and neighbours else None,
        )
        network.train(was_training)
        return diagnosis

    def _knn(self, network: JointEmbedding) -> float | None:
        classes = len(self._bank.classes)
        if classes < 2 or not len(self._queries) or self._bank.several is not None:
            return None
        bank, queries = (self._features(network, part) for part in (self._bank, self._queries))
        k = min(NEIGHBOURS, len(bank.labels))
        scores = knn_scores(bank, queries.representations, k, TEMPERATURE, classes)
        return top_k_accuracy(scores, queries.labels, 1)

    def _features(self, network: JointEmbedding, images: Images) -> Features:
        return extract_features(
            network.backbone, images, self._image_size, self._device, self._loaders
        )


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
    singular_values = torch.linalg.svdvals(z.float())
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
    eigenvalues = torch.linalg.svdvals((z - z.mean(dim=0)).double()).square()
    eigenvalues = eigenvalues[eigenvalues > eigenvalues.max() * 1e-10]
    if len(eigenvalues) < 2:
        return 0.0
    x = torch.arange(1, len(eigenvalues) + 1, device=z.device).double().log()
    y = eigenvalues.log()
    x, y = x - x.mean(), y - y.mean()
    return float(-(x * y).sum() / x.square().sum())
