"""Evaluations that belong together, by name."""

from __future__ import annotations

from typing import Literal, NamedTuple

from vicreg_platform.specs.data import Interpolation
from vicreg_platform.specs.protocol import (
    FinetuneProtocol,
    KnnProtocol,
    LinearProtocol,
    Protocol,
)

SuiteName = Literal["paper"]


class Part(NamedTuple):
    """One evaluation of a suite."""

    name: str
    protocol: Protocol
    share: float = 1.0
    """Share of the training images' labels."""
    interpolation: Interpolation = "bicubic"


SUITES: dict[SuiteName, tuple[Part, ...]] = {
    # VICReg's Table 1 (linear, and 1 % and 10 % of the labels) and Table 11 (nearest neighbours),
    # with the settings of Appendix C.2 and of facebookresearch/vicreg's README and evaluate.py.
    "paper": (
        Part(
            "linear",
            LinearProtocol(
                name="linear",
                augment=True,
                standardize=False,
                learning_rates=(0.02,),
                weight_decay=1e-6,
            ),
            interpolation="bilinear",
        ),
        Part("finetune-1", FinetuneProtocol(name="finetune"), 0.01, "bilinear"),
        Part(
            "finetune-10",
            FinetuneProtocol(name="finetune", backbone_lr=0.01, head_lr=0.1),
            0.1,
            "bilinear",
        ),
        Part("knn-20", KnnProtocol(name="knn", k=20)),
        Part("knn-200", KnnProtocol(name="knn", k=200)),
    )
}
