"""The network that VICReg trains: a backbone and an expander."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from vicreg_platform.specs import Backbone, Expander
from vicreg_workers.selfsup.backbones import build_backbone, representation_size


def build_expander(spec: Expander, inputs: int) -> nn.Sequential:
    """Representations ``[N, inputs]`` to embeddings ``[N, spec.layers[-1]]``.

    As ``Projector`` in the authors' ``main_vicreg.py``: Linear-BatchNorm-ReLU for each layer but
    the last, which is linear without bias.
    """
    modules: list[nn.Module] = []
    widths = [inputs, *spec.layers]
    for before, after in pairwise(widths[:-1]):
        modules += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    modules.append(nn.Linear(widths[-2], widths[-1], bias=False))
    return nn.Sequential(*modules)


class VICRegNetwork(nn.Module):
    """Backbone and expander; the two views share all weights."""

    def __init__(self, backbone: Backbone, expander: Expander) -> None:
        super().__init__()
        self.backbone = build_backbone(backbone)
        self.expander = build_expander(expander, representation_size(backbone))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``[N, D]`` of two batches of views ``[N, 3, H, W]``.

        The views pass one after the other, as in the authors' code: BatchNorm sees each alone.
        """
        return self.embed(x), self.embed(y)

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings ``[N, D]`` of one batch of views."""
        embedding: Tensor = self.expander(self.backbone(x))
        return embedding
