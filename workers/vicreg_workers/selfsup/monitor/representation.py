"""Measures a network on fixed images: rank, covariance, spread, nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from vicreg_platform.specs import Augmentation
from vicreg_workers.selfsup.data.evaluation_batches import PlainBatch, plain_batches
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import Subset
from vicreg_workers.selfsup.data.transforms import PlainView
from vicreg_workers.selfsup.distributed import world_size
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import (
    BATCH_SIZE,
    Features,
    calibrate_batchnorm,
    features_of,
)
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.metrics import top_k_accuracy
from vicreg_workers.selfsup.loss.vicreg import covariance
from vicreg_workers.selfsup.model.network import JointEmbedding
from vicreg_workers.selfsup.monitor.fixed_views import FixedViews
from vicreg_workers.selfsup.monitor.spectrum import (
    alpha_req,
    covariance_eigenvalues,
    lidar,
    nesum,
    rankme,
)

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
LIDAR_IMAGES = 200
"""Classes of LiDAR (its paper: 1,000): fewer images are not measured. It is at most 199."""
LIDAR_VIEWS_PER_DIMENSION = 2
"""Views, beyond one of each image, for each dimension of the representation (its paper: 24 at
D = 2048): 1,600 views at D = 512, 4,400 at 2048. W is then that of the views, not of δ."""


WIDEST = 2048
"""Dimensions of the representation for which LiDAR's cost is bounded: a ResNet-50's."""


@dataclass(frozen=True)
class Diagnosis:
    """Statistics of fixed images, without augmentation, with the network in eval mode."""

    embedding_std: Tensor
    """Standard deviation of each dimension of the embedding, ``[D]``, on the CPU."""
    finite: bool
    """Whether all representations and embeddings are. If not, nothing else is measured."""
    sample: Features
    """The representations that are described, of at most 2,000 images."""
    eigenvalues: Tensor
    """Of the covariance of ``sample``, descending, float64; empty if not finite."""
    representation: dict[str, float]
    """Metrics by name."""
    embedding_rankme: float | None = None
    """RankMe of the embeddings of ``sample``."""
    knn_top1: float | None = None
    """Accuracy of weighted nearest neighbours, in [0, 1], if asked for."""
    knn_queries: int = 0
    """How many images were classified."""

    def metrics(self) -> dict[str, float]:
        """The metrics by their names in the run."""
        metrics = {f"representation/{name}": v for name, v in self.representation.items()}
        if self.embedding_rankme is not None:
            metrics["embedding/rankme"] = self.embedding_rankme
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
        augmentation: how LiDAR's views are drawn; None to leave LiDAR out.
    """

    every_epochs: int
    """Epochs between two measurements, chosen so that 50 × workers images are trained per image
    measured, but that there are at least 5 measurements."""
    lidar_every_epochs: int
    """Epochs between two measurements of LiDAR: a multiple of ``every_epochs``, so that there are
    at most 6 in a training, and 50 × workers images are trained per view. A short training of
    few images has one, at its end."""

    def __init__(
        self,
        images: Images,
        image_size: int,
        device: torch.device,
        loaders: int,
        autocast: Callable[[], AbstractContextManager[object]],
        epochs: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        self._has_classes = len(images.classes) > 1 and images.several is None
        order = images.order(BATCH_SIZE, torch.Generator().manual_seed(0)).tolist()
        self._images = Subset(images, order[: MEASURED if self._has_classes else SAMPLE])
        self._device = device
        self._loaders = loaders
        self._autocast = autocast
        measured = len(self._images)
        # While one worker measures, the others wait.
        cheap = ceil(TRAINED_PER_MEASURED * measured * world_size() / len(images))
        fifth = max(1, epochs // FEWEST)
        self.every_epochs = min(cheap, fifth)
        views = LIDAR_IMAGES + LIDAR_VIEWS_PER_DIMENSION * WIDEST
        rarely = ceil(TRAINED_PER_MEASURED * views * world_size() / len(images))
        self.lidar_every_epochs = self.every_epochs * ceil(max(fifth, rarely) / self.every_epochs)
        self._views = (
            None
            if augmentation is None or len(images) < LIDAR_IMAGES
            else FixedViews(Subset(images, order[:LIDAR_IMAGES]), augmentation, image_size, device)
        )
        self._view = PlainView(image_size)
        self._keeps = measured * self._view.bytes <= KEPT_BYTES
        self._kept: list[PlainBatch] = []

    @property
    def images(self) -> Images:
        """Those that are measured; ``Diagnosis.sample`` has their indices."""
        return self._images

    @torch.no_grad()
    def of(self, network: JointEmbedding, neighbours: bool, views: bool = False) -> Diagnosis:
        """Measure the network. Its mode is left as it was.

        Args:
            network: what to measure.
            neighbours: whether to classify by nearest neighbours too, if the images have classes.
            views: whether to measure LiDAR too, if there are images enough.

        Raises:
            InvalidInput: fewer than two of the images can be read.
        """
        was_training = network.training
        network.eval()
        batches = self._batches(MEASURED if neighbours else SAMPLE)
        with self._autocast():
            features = features_of(network.backbone, batches, self._images.labels, self._device)
            sample = features.only(features.indices < SAMPLE)
            z = sample.representations
            if len(z) < 2:
                raise InvalidInput("data: fewer than two of the images measured can be read")
            embedding = network.expander(z).float()
        finite = all(bool(torch.isfinite(x).all()) for x in (features.representations, embedding))
        std = embedding.std(dim=0).cpu()
        if not finite:
            network.train(was_training)
            return Diagnosis(std, False, sample, z.new_empty(0), {})
        eigenvalues = covariance_eigenvalues(z)
        metrics = _representation_metrics(z, eigenvalues)
        if views and self._views is not None:
            metrics["lidar"] = self._lidar(network.backbone, z.shape[1], self._views)
        network.train(was_training)
        top1, queries = self._knn(features) if neighbours else (None, 0)
        return Diagnosis(std, True, sample, eigenvalues, metrics, rankme(embedding), top1, queries)

    @torch.no_grad()
    def untrained(self, backbone: nn.Module) -> tuple[float | None, int]:
        """The accuracy of nearest neighbours by random weights, and how many were classified.

        BatchNorm's statistics are set to those of images: without them, representations point in
        nearly one direction, which any training improves on.
        """
        if not self._has_classes:
            return None, 0
        self.calibrate(backbone)
        with self._autocast():
            batches = self._batches(MEASURED)
            features = features_of(backbone, batches, self._images.labels, self._device)
        return self._knn(features)

    def calibrate(self, backbone: nn.Module) -> None:
        """Set BatchNorm's statistics to those of the first images, and the mode to eval."""
        first = Subset(self._images, range(min(BATCH_SIZE, len(self._images))))
        calibrate_batchnorm(backbone, first, self._view.size, self._device, self._loaders)

    def _lidar(self, backbone: nn.Module, width: int, views: FixedViews) -> float:
        pairs = ceil((1 + LIDAR_VIEWS_PER_DIMENSION * width / LIDAR_IMAGES) / 2)
        with self._autocast():
            z = [backbone(each).float() for each in views.pairs(pairs)]
        return lidar(torch.stack(z, dim=1))

    def _batches(self, count: int) -> Iterable[PlainBatch]:
        """Batches of the first images, or a few more to fill the last batch."""
        if not self._keeps:
            return self._made(Subset(self._images, range(min(count, len(self._images)))))
        if not self._kept:
            self._kept = list(self._made(self._images))
        return self._kept[: ceil(count / BATCH_SIZE)]

    def _made(self, images: Images) -> Iterable[PlainBatch]:
        pinned = self._device.type == "cuda"
        return plain_batches(images, self._view, BATCH_SIZE, self._loaders, pinned)

    def _knn(self, features: Features) -> tuple[float | None, int]:
        """The accuracy, if the images have classes, and how many were classified."""
        asked = features.indices < len(self._images) // 4
        if not self._has_classes or asked.all() or not asked.any():
            return None, 0
        bank, queries = features.only(~asked), features.only(asked)
        k = min(NEIGHBOURS, len(bank.labels))
        classes = len(self._images.classes)
        scores = knn_scores(bank, queries.representations, k, TEMPERATURE, classes)
        return top_k_accuracy(scores, queries.labels, 1), len(queries.labels)


def _representation_metrics(z: Tensor, eigenvalues: Tensor) -> dict[str, float]:
    std, alpha = z.std(dim=0), alpha_req(eigenvalues, len(z))
    metrics = {
        "std_mean": float(std.mean()),
        "std_min": float(std.min()),
        "covariance": float(covariance(z)),
        "rankme": rankme(z),
        "nesum": nesum(eigenvalues),
    }
    return metrics if alpha is None else metrics | {"alpha_req": alpha}
