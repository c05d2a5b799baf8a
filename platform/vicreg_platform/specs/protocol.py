"""How an encoder is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vicreg_platform.specs.base import SpecModel


class KnnProtocol(SpecModel):
    """Weighted nearest neighbours on cosine similarity (Wu et al. 2018, section 3.4)."""

    name: Literal["knn"]
    k: int = Field(default=200, ge=1, le=10_000)
    temperature: float = Field(default=0.07, gt=0.0, le=10.0)


class LinearProtocol(SpecModel):
    """A linear classifier on the frozen representation, trained with SGD and a cosine schedule."""

    name: Literal["linear"]
    epochs: int = Field(default=100, ge=1, le=10_000)
    batch_size: int = Field(default=256, ge=1, le=65_536)
    learning_rates: tuple[Annotated[float, Field(gt=0.0, le=1000.0)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0), min_length=1, max_length=64
    )
    """All are trained at once; the best on the held-out part of the training set is tested."""
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    holdout: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training set kept to choose the learning rate."""
    seed: int = Field(default=0, ge=0, lt=2**32)


Protocol = Annotated[KnnProtocol | LinearProtocol, Field(discriminator="name")]
