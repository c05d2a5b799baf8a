"""Pictures of what a training has learnt, made once at its end."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.transforms import PlainView

QUERIES, NEIGHBOURS = 8, 7


class Neighbours(NamedTuple):
    """Images, and those whose representations are most like theirs."""

    views: Tensor
    """uint8 ``[Q, 1 + K, 3, S, S]``: each row is an image and its neighbours, the nearest first."""
    same_class: Tensor | None
    """Which neighbours are of the image's class, bool ``[Q, K]``; None without classes."""


def neighbours_of(z: Tensor, indices: Sequence[int], images: Images, size: int) -> Neighbours:
    """The nearest neighbours of the first few images, by cosine similarity.

    Args:
        z: representations, ``[N, D]``.
        indices: the image of each.
        images: what they are of. One that cannot be read any more is black.
        size: side of a view, in pixels.
    """
    queries = min(QUERIES, len(z) - 1)
    directions = normalize(z, dim=1)
    similarity = directions[:queries] @ directions.T
    similarity.fill_diagonal_(-torch.inf)
    nearest = similarity.topk(min(NEIGHBOURS, len(z) - 1), dim=1).indices.cpu()
    rows = torch.cat([torch.arange(queries)[:, None], nearest], dim=1)
    view = PlainView(size)
    views = torch.zeros(*rows.shape, 3, size, size, dtype=torch.uint8)
    for (row, column), place in zip(
        torch.cartesian_prod(*map(torch.arange, rows.shape)).tolist(),
        rows.flatten().tolist(),
        strict=True,
    ):
        try:
            views[row, column] = view(images.read(indices[place]))
        except OSError:
            continue
    if len(images.classes) < 2 or images.several is not None:
        return Neighbours(views, None)
    labels = torch.tensor([images.labels[index] for index in indices])[rows]
    return Neighbours(views, labels[:, 1:] == labels[:, :1])


class Map(NamedTuple):
    """Representations in two dimensions."""

    points: Tensor
    """``[N, 2]``, on the CPU."""
    method: str
    """``UMAP`` or ``PCA``."""
    problem: str | None = None
    """Why it is not by UMAP although umap-learn is installed, in words for the user."""


def embedding_map(z: Tensor) -> Map:
    """Place representations ``[N, D]`` in a plane: by UMAP if umap-learn is installed, else PCA.

    UMAP keeps neighbours together (McInnes et al. 2018, arXiv 1802.03426; its defaults, with cosine
    distances and a fixed seed). PCA shows the two directions that vary most.
    """
    # UMAP's default has 15 neighbours.
    if find_spec("umap") is None or len(z) <= 15:
        return Map(_principal(z), "PCA")
    try:
        return Map(_umap(z), "UMAP")
    except Exception as error:  # whatever its libraries raise: the training is worth more
        text = " ".join(str(error).split())
        problem = f"UMAP, which is installed, fails: {type(error).__name__}: {text}"
        if "no locator available" in text:
            problem += "; set NUMBA_CACHE_DIR to a folder that the workers can write to"
        return Map(_principal(z), "PCA", problem)


def _umap(z: Tensor) -> Tensor:
    # Imported here: it takes seconds, and is optional.
    from umap import UMAP

    # One thread: with several, a seed would not fix the result.
    umap = UMAP(metric="cosine", random_state=0, n_jobs=1)
    return torch.from_numpy(umap.fit_transform(z.cpu().numpy()))


def _principal(z: Tensor) -> Tensor:
    centred = (z - z.mean(dim=0)).double()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    placed: Tensor = (centred @ vectors[:, -2:].flip(1)).float().cpu()
    return placed
