"""Whether the encoder learns, or collapses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from vicreg_workers.selfsup.images import Images
from vicreg_workers.selfsup.loading import plain_batches
from vicreg_workers.selfsup.losses import covariance
from vicreg_workers.selfsup.vicreg import VICRegNetwork
from vicreg_workers.selfsup.views import PlainView

SAMPLE_SIZE = 512
COLLAPSED_STD = 1e-3
"""Embeddings whose mean standard deviation is below this carry no information: VICReg pulls it
towards 1, and an untrained network is above 0.1."""


@dataclass(frozen=True)
class Diagnosis:
    """Statistics of a fixed sample of images, seen without augmentation in eval mode."""

    representation_std: Tensor
    """Standard deviation of each dimension of the representation, ``[F]``."""
    embedding_std: Tensor
    """Standard deviation of each dimension of the embedding, ``[D]``."""
    finite: bool
    """Whether all representations and embeddings are; where not, the numbers below are zero."""
    covariance: float
    """The covariance term (paper, equation 4) of the representations."""
    rankme: float
    """Effective rank of the representations, in [1, F]."""

    @property
    def collapsed(self) -> bool:
        """Whether the embeddings are all but one point."""
        return float(self.embedding_std.mean()) < COLLAPSED_STD

    def metrics(self) -> dict[str, float]:
        """The metrics ``representation/…``."""
        return {
            "representation/std_mean": float(self.representation_std.mean()),
            "representation/std_min": float(self.representation_std.min()),
            "representation/covariance": self.covariance,
            "representation/rankme": self.rankme,
        }


class Subset:
    """A fixed random choice of images: the same for every run on the same images."""

    def __init__(self, images: Images, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._indices = torch.randperm(len(images), generator=generator)[:size].tolist()
        self._images = images
        self.classes = images.classes
        self.labels: Sequence[int] = [images.labels[index] for index in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> Image.Image:
        """See ``Images.read``."""
        return self._images.read(self._indices[index])

    def name(self, index: int) -> str:
        """See ``Images.name``."""
        return self._images.name(self._indices[index])


@torch.no_grad()
def diagnose(
    network: VICRegNetwork, images: Images, image_size: int, device: torch.device
) -> Diagnosis:
    """Measure ``network`` on up to 512 of ``images``; its mode is left as it was."""
    was_training = network.training
    network.eval()
    representations, embeddings = [], []
    sample = Subset(images, SAMPLE_SIZE)
    for views, _, _ in plain_batches(sample, PlainView(image_size), batch_size=128, loaders=0):
        if len(views):
            representation = network.backbone(views.to(device)).float()
            representations.append(representation)
            embeddings.append(network.expander(representation).float())
    network.train(was_training)
    representation, embedding = torch.cat(representations), torch.cat(embeddings)
    finite = bool(torch.isfinite(representation).all() and torch.isfinite(embedding).all())
    return Diagnosis(
        representation_std=representation.std(dim=0).cpu(),
        embedding_std=embedding.std(dim=0).cpu(),
        finite=finite,
        covariance=float(covariance(representation)) if finite else 0.0,
        rankme=rankme(representation) if finite else 0.0,
    )


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
