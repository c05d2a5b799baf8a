"""How an encoder is evaluated: kNN, linear probe, fine-tuning, features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vicreg_platform.specs.base import SpecModel


class KnnProtocol(SpecModel):
    """Weighted nearest neighbours on cosine similarity (Wu et al. 2018, section 3.4)."""

    name: Literal["knn"]
    k: int = Field(default=200, ge=1, le=10_000)
    """How many neighbours vote."""
    temperature: float = Field(default=0.07, gt=0.0, le=10.0)
    """A neighbour at cosine similarity s votes with weight exp(s / temperature)."""


class LinearProtocol(SpecModel):
    """A linear classifier on the frozen representation, trained with SGD, on a cosine.

    The authors' protocol is ``augment: true``, ``standardize: false``, ``learning_rates: [0.02]``
    and ``weight_decay: 1.0e-6`` with ``data.interpolation: bilinear`` (Appendix C.2;
    ``evaluate.py``). One thing differs: their classifier's weights start at random (standard
    deviation 0.01), these at zero.

    On images with several labels (``data.train.labels``) each class has a logistic classifier,
    and the metric is mean average precision.
    """

    name: Literal["linear"]
    epochs: int = Field(default=100, ge=1, le=10_000)
    batch_size: int = Field(default=256, ge=1, le=65_536)
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=1000.0)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), min_length=1, max_length=64
    )
    """All are trained at once; the one that does best on the held-out images is tested."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    holdout: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training set held out to choose the learning rate; none if there is only one."""
    augment: bool = False
    """``false``: every training image passes the encoder once, and its representation is cached;
    ``true``: new random crops and flips in every epoch, as in the authors' ``evaluate.py``."""
    standardize: bool = True
    """``true``: the features are shifted to a mean of 0 and scaled, all by one number, to a mean
    square of 1, so that the same learning rates suit every encoder; ``false``: they are taken as
    they are, as in ``evaluate.py``."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class FinetuneProtocol(SpecModel):
    """Trains encoder and classifier together on labelled images, as the authors' evaluate.py does.

    The defaults are the authors' for 1 % of the labels (``data.train.share`` 0.01); for 10 % they
    use ``backbone_lr`` 0.01 and ``head_lr`` 0.1 (README of facebookresearch/vicreg).
    """

    name: Literal["finetune"]
    epochs: int = Field(default=20, ge=1, le=10_000)
    batch_size: int = Field(default=256, ge=2, le=65_536)
    backbone_lr: float = Field(default=0.03, ge=0.0, le=1000.0)
    """Peak learning rate of the encoder."""
    head_lr: float = Field(default=0.08, gt=0.0, le=1000.0)
    """Peak learning rate of the classifier."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = Field(default=0, ge=0, lt=2**32)


class ExportProtocol(SpecModel):
    """Measures nothing: stores the representations of both sets as the artifact ``features.npz``.

    It holds ``train`` and ``test`` ``[N, F]`` float32, ``train_labels`` and ``test_labels``, and
    ``classes``.
    """

    name: Literal["features"]


Protocol = Annotated[
    KnnProtocol | LinearProtocol | FinetuneProtocol | ExportProtocol, Field(discriminator="name")
]
