"""Weighted nearest neighbours (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vicreg_workers.selfsup.evaluation.features import Features

CHUNK = 1024
"""Test images classified at once: limits the similarity matrix to CHUNK × N."""


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
    bank = normalize(train.representations, dim=1)
    scores = []
    for chunk in torch.split(normalize(test, dim=1), CHUNK):
        similarity, neighbours = (chunk @ bank.T).topk(k, dim=1)
        # Scaled so that the largest weight is 1: exp(1 / τ) would overflow for a small τ.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(chunk), classes)
        scores.append(votes.scatter_add_(1, train.labels[neighbours], weights))
    return torch.cat(scores)
