"""kNN and the linear probe measure what they should."""

import math
from typing import Any

import pytest
import torch

from vicreg_platform.specs import LinearProtocol
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.features import Features
from vicreg_workers.selfsup.evaluation.knn import knn_scores
from vicreg_workers.selfsup.evaluation.linear import linear_probe
from vicreg_workers.selfsup.evaluation.metrics import mean_average_precision, top_k_accuracy


def blobs(count: int, seed: int, noise: float = 0.3) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.eye(3, 6) * 4
    points = centres[labels] + noise * torch.randn(count, 6, generator=generator)
    return Features(points, labels, torch.arange(count), corrupt=())


def test_neighbours_vote_with_their_weights() -> None:
    train = Features(
        torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]),
        torch.tensor([0, 1, 1]),
        torch.arange(3),
        (),
    )
    scores = knn_scores(train, torch.tensor([[2.0, 0.0]]), k=2, temperature=0.5, classes=2)
    # Similarities 1 and 0.8: weights e^(1/τ) and e^(0.8/τ), here over the first.
    torch.testing.assert_close(scores, torch.tensor([[1.0, math.exp(-0.2 / 0.5)]]))


def test_a_small_temperature_does_not_overflow() -> None:
    scores = knn_scores(blobs(30, 0), blobs(6, 1).representations, 5, 0.001, 3)
    assert torch.isfinite(scores).all()


def test_separable_classes_are_told_apart() -> None:
    train, test = blobs(300, 0), blobs(60, 1)
    scores = knn_scores(train, test.representations, 20, 0.07, 3)
    assert top_k_accuracy(scores, test.labels, 1) == 1.0
    protocol = LinearProtocol(name="linear", epochs=10)
    result = linear_probe(train, train.labels, test.representations, protocol, 3)
    assert top_k_accuracy(result.scores, test.labels, 1) == 1.0
    assert set(result.holdout) == set(protocol.learning_rates)


@pytest.mark.parametrize("standardize", [True, False])
def test_each_learning_rate_is_plain_sgd(standardize: bool) -> None:
    """The joint training of all rates equals torch's SGD with one of them."""
    train = blobs(40, 0)
    protocol = LinearProtocol(
        name="linear", epochs=3, batch_size=8, learning_rates=(0.5, 0.02), weight_decay=0.01,
        holdout=0.25, standardize=standardize,
    )  # fmt: skip
    joint = {
        rate: linear_probe(
            train,
            train.labels,
            train.representations,
            protocol.model_copy(update={"learning_rates": (rate, rate)}),
            3,
        ).scores
        for rate in protocol.learning_rates
    }
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(40, generator=generator)
    rest = order[10:]
    features = train.representations
    if standardize:
        features = features - features[rest].mean(0)
        features = features / features[rest].pow(2).mean().sqrt()
    shuffles = [torch.randperm(30, generator=generator) for _ in range(3)]
    for rate, scores in joint.items():
        layer = torch.nn.Linear(6, 3)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "weight_decay": 0.01},
            {"params": [layer.bias]},
        ]
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9)
        for epoch, shuffle in enumerate(shuffles):
            for group in optimizer.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * epoch / 3))
            for batch in torch.split(shuffle, 8):
                optimizer.zero_grad()
                chosen = rest[batch]
                logits = layer(features[chosen])
                loss = torch.nn.functional.cross_entropy(logits, train.labels[chosen])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        torch.testing.assert_close(scores, layer(features), rtol=1e-4, atol=1e-5)


def test_the_rate_is_chosen_by_the_training_set_alone() -> None:
    train = blobs(300, 0, noise=4.0)
    protocol = LinearProtocol(name="linear", epochs=5, learning_rates=(30.0, 0.1))
    chosen = {
        linear_probe(train, train.labels, test, protocol, 3).learning_rate
        for test in (torch.zeros(4, 6), blobs(60, 1).representations)
    }
    result = linear_probe(train, train.labels, torch.zeros(4, 6), protocol, 3)
    assert chosen == {max(result.holdout, key=lambda rate: result.holdout[rate])}


def test_too_few_images_to_hold_out_are_refused() -> None:
    few = blobs(3, 0)
    with pytest.raises(InvalidInput, match="holdout"):
        linear_probe(few, few.labels, torch.zeros(1, 6), LinearProtocol(name="linear"), 3)


def test_top_five_of_three_classes_is_all() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    assert top_k_accuracy(scores, torch.tensor([2, 1]), 1) == 0.5
    assert top_k_accuracy(scores, torch.tensor([0, 2]), 5) == 1.0


def test_mean_average_precision_leaves_the_unknown_out() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.9], [0.1, 0.0]])
    targets = torch.tensor([[1, 0], [0, 0], [1, -1], [0, 0]])
    # Class 0: hits at ranks 1 and 3, (1 + 2/3) / 2; class 1 has no image of its own.
    assert mean_average_precision(scores, targets) == pytest.approx(5 / 6)
    assert mean_average_precision(scores[:, 1:], targets[:, 1:]) == 0.0


def test_several_labels_have_a_classifier_each() -> None:
    train, test = blobs(300, 0), blobs(60, 1)

    def targets(labels: torch.Tensor) -> torch.Tensor:
        """Not the classes themselves, but each pair of them; some unknown."""
        several = torch.stack([labels != number for number in range(3)], dim=1).to(torch.int8)
        several[::7, 0] = -1
        return several

    protocol = LinearProtocol(name="linear", epochs=10)
    result = linear_probe(train, targets(train.labels), test.representations, protocol, 3)
    assert mean_average_precision(result.scores, targets(test.labels)) > 0.99


def test_one_rate_is_trained_on_all_images() -> None:
    train = blobs(30, 0)
    protocol = LinearProtocol(name="linear", epochs=2, learning_rates=(0.1,))
    seen: list[int] = []

    def fresh(places: list[int]) -> object:
        def epoch(number: int) -> object:
            seen.extend(places)
            yield train.representations[places], torch.tensor(places)

        return epoch

    result = linear_probe(
        train,
        train.labels,
        train.representations,
        protocol,
        3,
        fresh,  # type: ignore[arg-type]
    )
    assert sorted(seen) == sorted([*range(30)] * 2)
    assert result.holdout == {}
