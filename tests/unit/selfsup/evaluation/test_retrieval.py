"""Retrieval: rankings whose precision is known."""

from __future__ import annotations

import math

import pytest
import torch

from vicreg_workers.selfsup.evaluation.features import Features
from vicreg_workers.selfsup.evaluation.retrieval import retrieval_metrics


def at(*degrees: float) -> torch.Tensor:
    """Representations in these directions, of different lengths."""
    angles = [math.radians(each) for each in degrees]
    rows = [[math.cos(angle), math.sin(angle)] for angle in angles]
    return torch.tensor(rows) * torch.arange(1, len(rows) + 1)[:, None]


def searched(degrees: list[float], labels: list[int]) -> Features:
    count = len(labels)
    return Features(at(*degrees), torch.tensor(labels), torch.arange(count), ())


def test_a_ranking_that_is_written_down() -> None:
    train = searched([10, 20, 30, 40], [1, 0, 0, 1])
    # From 0 degrees: 1, 0, 0, 1. Class 0 has its images at ranks 2 and 3, class 1 at 1 and 4.
    found = retrieval_metrics(train, at(0, 0), torch.tensor([0, 1]))
    precisions = (1 / 2 + 2 / 3) / 2, (1 / 1 + 2 / 4) / 2
    assert found == {
        "map": pytest.approx(sum(precisions) / 2),
        "recall_at_1": 0.5,
        "recall_at_5": 1.0,
        "recall_at_10": 1.0,
    }


def test_a_query_of_a_class_that_is_not_there_is_left_out() -> None:
    train = searched([0, 90], [0, 1])
    alone = retrieval_metrics(train, at(1), torch.tensor([0]))
    assert retrieval_metrics(train, at(1, 1), torch.tensor([0, 2])) == alone
    assert retrieval_metrics(train, at(1), torch.tensor([-1]))["map"] == 0.0


def test_many_queries_are_ranked_in_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    train = Features(
        torch.randn(50, 4, generator=generator),
        torch.randint(0, 3, (50,), generator=generator),
        torch.arange(50),
        (),
    )
    queries = torch.randn(150, 4, generator=generator)
    labels = torch.randint(0, 3, (150,), generator=generator)
    whole = retrieval_metrics(train, queries, labels)
    each = [retrieval_metrics(train, queries[n : n + 1], labels[n : n + 1]) for n in range(150)]
    assert whole["map"] == pytest.approx(sum(one["map"] for one in each) / 150)
