"""Weighted nearest neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vicreg_workers.selfsup.evaluation.features import Features, chunks

QUERIES = 1024
"""Test images that are compared at once with ``features.CHUNK`` training images."""


def knn_scores(train: Features, test: Tensor, k: int, temperature: float, classes: int) -> Tensor:
    """The votes of each test image's nearest neighbours for each class.

    Args:
        train: the images that vote.
        test: representations to classify, ``[M, F]``.
        k: neighbours that vote, in [1, N].
        temperature: τ; a neighbour at cosine similarity s votes with weight exp(s / τ).
        classes: number of classes.

    Returns:
        ``[M, classes]``, at least 0.
    """
    scores = []
    for queries in torch.split(test, QUERIES):
        similarity, neighbours = _nearest(train.representations, queries.float(), k)
        # Scaled so that the largest weight is 1: exp(1 / τ) would overflow for a small τ.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(queries), classes)
        scores.append(votes.scatter_add_(1, train.labels[neighbours], weights))
    return torch.cat(scores)


def _nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The cosine similarities and the indices of the k nearest, ``[n, k]``, nearest first."""
    queries = normalize(queries, dim=1)
    similarity = queries.new_empty(len(queries), 0)
    indices = similarity.long()
    first = 0
    for chunk in chunks(bank):
        found = queries @ normalize(chunk, dim=1).T
        best = found.topk(min(k, len(chunk)), dim=1)
        similarity = torch.cat([similarity, best.values], dim=1)
        indices = torch.cat([indices, best.indices + first], dim=1)
        first += len(chunk)
        similarity, places = similarity.topk(min(k, similarity.shape[1]), dim=1)
        indices = indices.gather(1, places)
    return similarity, indices
