"""Retrieval: the training images of a query's class, ranked by cosine similarity."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from vicreg_workers.selfsup.evaluation.features import Features, chunks

QUERIES = 64
"""Compared at a time."""
RANKED = 2**23
"""Pairs of a query and a training image that are ranked at a time."""
RECALLED = (1, 5, 10)


def retrieval_metrics(train: Features, queries: Tensor, labels: Tensor) -> dict[str, float]:
    """How high the training images of each query's class are ranked.

    Args:
        train: the images that are searched.
        queries: representations ``[M, F]`` on the same device.
        labels: the class of each query among the training images', ``[M]``; queries of a class
            without training images are left out.

    Returns:
        ``map``: the mean over the queries of the average precision of their ranking; and
        ``recall_at_1``, ``_5`` and ``_10``: the share of queries with an image of their class among
        so many first ones. All in [0, 1]; zeros without queries.
    """
    found = dict.fromkeys(["map", *(f"recall_at_{k}" for k in RECALLED)], 0.0)
    count = 0
    for similarity, wanted in _compared(train, queries, labels):
        order = similarity.argsort(dim=1, descending=True)
        relevant = train.labels[order] == wanted[:, None]
        asked = relevant.any(dim=1)
        relevant = relevant[asked]
        hits = relevant.cumsum(dim=1)
        ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
        precision = (hits / ranks * relevant).sum(dim=1) / relevant.sum(dim=1)
        found["map"] += float(precision.sum())
        for k in RECALLED:
            found[f"recall_at_{k}"] += float(relevant[:, :k].any(dim=1).sum())
        count += int(asked.sum())
    return {name: value / max(1, count) for name, value in found.items()}


def _compared(train: Features, queries: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The similarity of some queries to each training image, ``[n, N]``, and their labels."""
    searched = train.representations
    ranked = max(1, RANKED // len(searched))
    parts = torch.split(queries, QUERIES), torch.split(labels, QUERIES)
    for some, wanted in zip(*parts, strict=True):
        some = functional.normalize(some.float(), dim=1)
        similarity = torch.cat(
            [some @ functional.normalize(chunk, dim=1).T for chunk in chunks(searched)], dim=1
        )
        yield from zip(torch.split(similarity, ranked), torch.split(wanted, ranked), strict=True)
