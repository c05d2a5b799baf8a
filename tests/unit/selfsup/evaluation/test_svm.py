"""The paper's SVMs: what they learn, what they choose, and how precision is averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC

from vicreg_platform.specs import SvmProtocol
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.evaluation.metrics import interpolated_average_precision
from vicreg_workers.selfsup.evaluation.svm import svm_scores


def protocol(**changes: object) -> SvmProtocol:
    return SvmProtocol.model_validate({"name": "svm", "costs": [0.1]} | changes)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Representations whose first two numbers say which classes they have; a third is noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator)
    return features, (features[:, :3] > 0).long()


def test_a_class_that_can_be_told_is_told() -> None:
    features, targets = drawn(300, 0)
    test, wanted = drawn(200, 1)
    result = svm_scores(features, targets, test, protocol(costs=[1.0, 10.0]), ["a", "b", "c"])
    assert result.scores.shape == (200, 3)
    assert float(((result.scores > 0) == (wanted == 1)).float().mean()) > 0.9
    assert interpolated_average_precision(result.scores, wanted) > 0.97
    assert set(result.costs) <= {1.0, 10.0}


def test_decisions_are_those_of_an_independent_writing() -> None:
    features, targets = drawn(120, 2)
    test, _ = drawn(30, 3)
    targets[:20, 1] = -1  # unknown: left out for that class alone
    ours = svm_scores(features, targets, test, protocol(), ["a", "b", "c"])
    for column in range(3):
        rows = targets[:, column] >= 0
        x = features[rows].double().numpy()
        x = x / (np.sqrt((x**2).sum(axis=1)) + 1e-5)[:, None]
        y = np.where(targets[rows, column].numpy() == 1, 1, -1)
        machine = LinearSVC(
            C=0.1, class_weight={1: 2, -1: 1}, loss="squared_hinge", dual=True, max_iter=2000,
            random_state=0,
        ).fit(x, y)  # fmt: skip
        q = test.double().numpy()
        q = q / (np.sqrt((q**2).sum(axis=1)) + 1e-5)[:, None]
        np.testing.assert_allclose(ours.scores[:, column], machine.decision_function(q), atol=1e-9)


def test_the_cost_is_chosen_on_the_training_images() -> None:
    """With a cost of nearly nothing, an SVM hardly looks at its images."""
    features, targets = drawn(150, 4)
    result = svm_scores(features, targets, features, protocol(costs=[1e-6, 1.0]), ["a", "b", "c"])
    assert result.costs.count(1.0) >= 2


def test_a_class_of_too_few_images_is_named() -> None:
    features, targets = drawn(50, 5)
    targets[:, 1] = 0
    targets[:2, 1] = 1
    several = protocol(costs=[0.1, 1.0])
    with pytest.raises(InvalidInput, match="class rare has 2 images and 48 without it"):
        svm_scores(features, targets, features, several, ["a", "rare", "c"])
    # Without a cost to choose, two are enough; none are not.
    svm_scores(features, targets, features, protocol(), ["a", "rare", "c"])
    targets[:, 1] = 0
    with pytest.raises(InvalidInput, match=r"class rare has 0 images .* an SVM needs one of each"):
        svm_scores(features, targets, features, protocol(), ["a", "rare", "c"])


def test_precision_is_the_highest_at_a_higher_recall() -> None:
    # Ranked: no, yes, yes, no, yes. Precisions at the hits: 1/2, 2/3, 3/5; the first is raised.
    scores = torch.tensor([[5.0], [4.0], [3.0], [2.0], [1.0]])
    targets = torch.tensor([[0], [1], [1], [0], [1]])
    assert interpolated_average_precision(scores, targets) == pytest.approx((2 / 3 * 2 + 3 / 5) / 3)
    # An unknown image counts for nothing, and neither does a class without images.
    scores = torch.cat([scores, torch.tensor([[6.0]])]).expand(6, 2)
    targets = torch.tensor([[0, 0], [1, 0], [1, 0], [0, 0], [1, 0], [-1, 0]])
    assert interpolated_average_precision(scores, targets) == pytest.approx((2 / 3 * 2 + 3 / 5) / 3)
