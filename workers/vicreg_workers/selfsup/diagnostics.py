"""Whether the encoder learns, or collapses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.accuracy import top_k_accuracy
from vicreg_workers.selfsup.distributed import world_size
from vicreg_workers.selfsup.features import Features
from vicreg_workers.selfsup.images import Images, Subset
from vicreg_workers.selfsup.knn import knn_scores
from vicreg_workers.selfsup.loading import plain_batches
from vicreg_workers.selfsup.losses import covariance
from vicreg_workers.selfsup.network import JointEmbedding
from vicreg_workers.selfsup.views import PlainView

MEASURED, SAMPLE, BATCH_SIZE = 4000, 2000, 250
"""Images that are measured at most, those of them whose embeddings and spectrum are, and those that
pass the network at once. A quarter of all is classified by the votes of the rest."""
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
        self._kept: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def of(self, network: JointEmbedding, neighbours: bool) -> Diagnosis:
        """The network's diagnosis; its mode is left as it was.

        Args:
            network: what to measure.
            neighbours: whether to classify by nearest neighbours too, if the images have classes.

        Raises:
            UserFailure: fewer than two of the images can be read.
        """
        was_training = network.training
        network.eval()
        with self._autocast():
            representations, read = [], []
            for views, some in self._views(MEASURED if neighbours else SAMPLE):
                representations.append(network.backbone(views.to(self._device)).float())
                read.append(some)
            indices = torch.cat(read) if read else torch.empty(0)
            if (indices < SAMPLE).sum() < 2:
                raise UserFailure(
                    f"data: fewer than two of {min(SAMPLE, len(self._images))} images can be read"
                )
            representation = torch.cat(representations)
            sample = representation[indices < SAMPLE]
            embedding = network.expander(sample).float()
        network.train(was_training)
        finite = bool(torch.isfinite(representation).all() and torch.isfinite(embedding).all())
        return Diagnosis(
            embedding_std=embedding.std(dim=0).cpu(),
            finite=finite,
            representation=_representation_metrics(sample) if finite else {},
            knn_top1=self._knn(representation, indices) if finite and neighbours else None,
        )

    def _views(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Views ``[n, 3, S, S]`` and indices ``[n]`` of the readable of the first images."""
        if self._keeps and not self._kept:
            self._kept = list(self._made(MEASURED))
        if self._kept:
            yield from ((views, some) for views, some in self._kept if some[0] < count)
        else:
            yield from self._made(count)

    def _made(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        images = Subset(self._images, range(min(count, len(self._images))))
        for views, some, _ in plain_batches(
            images, PlainView(self._image_size), BATCH_SIZE, self._loaders
        ):
            if len(views):
                yield views.contiguous(memory_format=torch.channels_last), some

    def _knn(self, representation: Tensor, indices: Tensor) -> float | None:
        asked = indices < len(self._images) // 4
        if not self._has_classes or asked.all() or not asked.any():
            return None
        labels = torch.tensor(self._images.labels)[indices].to(self._device)
        bank = Features(representation[~asked], labels[~asked], indices[~asked], ())
        k = min(NEIGHBOURS, len(bank.labels))
        scores = knn_scores(bank, representation[asked], k, TEMPERATURE, len(self._images.classes))
        return top_k_accuracy(scores, labels[asked], 1)


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

    As eigenvalues of the smaller of ZᵀZ and ZZᵀ: less work than a decomposition of Z, on GPUs by
    far.
    """
    z = z.double()
    gram = z.T @ z if z.shape[1] < z.shape[0] else z @ z.T
    ascending: Tensor = torch.linalg.eigvalsh(gram)
    return ascending.clamp_min(0.0).flip(0)
