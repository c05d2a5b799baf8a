"""The method: its loss, and how the two branches of the network differ."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vicreg_platform.specs.backbone import Backbone
from vicreg_platform.specs.base import SpecModel

Coefficient = Annotated[float, Field(ge=0.0, le=10_000.0)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Matches = Annotated[int, Field(ge=1, le=4096)]


class _Regularised(SpecModel):
    variance: Coefficient = 0.0
    """Coefficient of an added variance term (paper, Table 4)."""
    covariance: Coefficient = 0.0
    """Coefficient of an added covariance term (paper, Table 4)."""


class VICRegTerms(SpecModel):
    """The coefficients of the loss: λ, μ and ν of the paper's equation 6."""

    invariance: Coefficient = 25.0
    """λ: of the mean squared distance between the embeddings of the two views."""
    variance: Coefficient = 25.0
    """μ: of the hinge that keeps the standard deviation of every dimension above 1."""
    covariance: Coefficient = 1.0
    """ν: of the squared off-diagonal covariances."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> VICRegTerms:
        if self.invariance == self.variance == self.covariance == 0.0:
            raise ValueError("at least one of invariance, variance, covariance must be above 0")
        return self


class VICReg(VICRegTerms):
    """VICReg (Bardes et al. 2022, arXiv 2105.04906)."""

    name: Literal["vicreg"] = "vicreg"


class VICRegL(VICRegTerms):
    """VICRegL: VICReg of whole views and of places in them (Bardes et al. 2022, 2210.01571).

    The places of a view's feature map are matched with those of another view: by what they show,
    each with the nearest embedding, and by where they lie, each with the nearest place in the
    image. Its representation is better for segmentation and detection.
    """

    name: Literal["vicregl"]
    alpha: float = Field(default=0.75, gt=0.0, lt=1.0)
    """Share of the loss of whole views; the rest is that of places (default: the authors' code;
    0.9 is better for classification)."""
    matches: tuple[Matches, Matches] = (20, 4)
    """How many of a view's places are matched by where they lie, the nearest first: of the first
    view of a pair, and of the second (γ; ``num_matches`` of the authors' code). By what they show,
    all are."""
    layers: tuple[Width, ...] = Field(default=(512, 512, 512), min_length=1, max_length=16)
    """Widths of the expander of the places, which is like the other one (``maps-mlp`` of the
    authors' code)."""


class BarlowTwins(_Regularised):
    """Barlow Twins: drives the views' cross-correlation to the identity (Zbontar et al. 2021)."""

    name: Literal["barlow_twins"]
    redundancy: Coefficient = 0.0051
    """Coefficient of the off-diagonal elements (default: the authors' code)."""
    scale: float = Field(default=0.1, gt=0.0, le=10_000.0)
    """Factor of the whole loss (default: solo-learn's CIFAR recipe; the authors use 0.024 for
    ImageNet)."""


class SimCLR(_Regularised):
    """SimCLR: contrasts each image with all others of the batch (Chen et al. 2020)."""

    name: Literal["simclr"]
    temperature: float = Field(default=0.2, gt=0.0, le=100.0)
    """Temperature of the softmax over the similarities."""


class BYOL(_Regularised):
    """BYOL: predicts a momentum copy's embedding of the other view (Grill et al. 2020)."""

    name: Literal["byol"]


class SimSiam(_Regularised):
    """SimSiam: predicts its own embedding of the other view, stop-gradient (Chen & He 2021)."""

    name: Literal["simsiam"]


def _name_or_default(default: str) -> Any:
    def name(value: Any) -> Any:
        if isinstance(value, dict):
            return value.get("name", default)
        return getattr(value, "name", None)

    return name


METHODS = ("vicreg", "vicregl", "barlow_twins", "simclr", "byol", "simsiam")

Method = Annotated[
    Annotated[VICReg, Tag("vicreg")]
    | Annotated[VICRegL, Tag("vicregl")]
    | Annotated[BarlowTwins, Tag("barlow_twins")]
    | Annotated[SimCLR, Tag("simclr")]
    | Annotated[BYOL, Tag("byol")]
    | Annotated[SimSiam, Tag("simsiam")],
    Discriminator(
        _name_or_default("vicreg"),
        custom_error_type="method",
        custom_error_message=f"name must be one of: {', '.join(METHODS)}",
    ),
]


class Expander(SpecModel):
    """Linear-BatchNorm-ReLU for each width but the last, then a linear layer without bias."""

    layers: tuple[Width, ...] = Field(min_length=1, max_length=16)
    """Default: [2048, 2048, 2048]; vicregl [8192, 8192, 8192] (its authors' code), simclr
    [2048, 256], byol [4096, 256] (solo-learn)."""
    batchnorm: bool = True
    """Without it, the hidden layers are Linear-ReLU (paper, Table 4, column BN)."""
    normalization: Literal["none", "standardize", "l2"]
    """Normalisation of the embeddings. ``standardize``: to mean 0 and standard deviation 1 of each
    dimension over the batch; ``l2``: to norm 1 for each image (paper, Table 8). Default:
    standardize for simsiam (its projector ends in BatchNorm), else none."""


class Predictor(SpecModel):
    """Linear-BatchNorm-ReLU for each width, then a linear layer to the width of the embedding."""

    layers: tuple[Width, ...] = Field(default=(512,), min_length=1, max_length=16)
    """Widths of the hidden layers."""
    batchnorm: bool = True
    """Whether each hidden layer has batch normalisation."""


class Branches(SpecModel):
    """How the second branch differs from the first, and what passes between them."""

    weights: Literal["shared", "separate", "momentum"]
    """Weights of the second branch: those of the first, its own (paper, Table 5), or a moving
    average of those of the first (paper, Table 4, column ME). Default: momentum for byol, else
    shared."""
    backbone: Backbone | None = None
    """Backbone of the second branch, if another; needs ``weights: separate`` (paper, Table 5)."""
    momentum: float = Field(default=0.99, ge=0.0, le=1.0)
    """Momentum of the moving average at the first step; it rises to 1 along a cosine (Grill et al.
    2020)."""
    stop_gradient: bool
    """Whether gradients stop at the second branch, which is then only a target (Table 4, column
    SG). Default: true for byol and simsiam, else false."""
    predictor: Predictor | None
    """On top of the first branch (Table 4, column PR). Default: width 4096 for byol, 512 for
    simsiam, else null."""


_ASYMMETRIC: dict[str, dict[str, Any]] = {
    "byol": {
        "expander": {"layers": (4096, 256)},
        "branches": {
            "weights": "momentum",
            "stop_gradient": True,
            "predictor": {"layers": (4096,)},
        },
    },
    "simsiam": {
        "expander": {"normalization": "standardize"},
        "branches": {"stop_gradient": True, "predictor": {"layers": (512,)}},
    },
    "simclr": {"expander": {"layers": (2048, 256)}},
    "vicregl": {"expander": {"layers": (8192, 8192, 8192)}},
}


def method_defaults(method: object) -> dict[str, dict[str, Any]]:
    """The defaults of ``expander`` and ``branches`` for a method."""
    own = _ASYMMETRIC.get(str(method), {})
    return {
        "expander": {"layers": (2048, 2048, 2048), "normalization": "none"}
        | own.get("expander", {}),
        "branches": {"weights": "shared", "stop_gradient": False, "predictor": None}
        | own.get("branches", {}),
    }
