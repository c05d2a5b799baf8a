"""The gate of a registration: which scores count, and which requirements are not met."""

import pytest
from pydantic import ValidationError

from vicreg_platform.errors import InvalidRequest
from vicreg_platform.jobs.registration import (
    Comparison,
    Registration,
    read_requirement,
    unmet,
)
from vicreg_platform.jobs.schemas import Score

SCORES = {"knn/top1": Score(value=0.6, job="a"), "train/loss": Score(value=12.0, job="b")}


def faults(gate: dict[str, dict[str, float]]) -> list[tuple[str, str]]:
    wanted = Registration.model_validate({"model": "m", "require": gate})
    return [(fault.field, fault.message) for fault in unmet(SCORES, wanted.require)]


@pytest.mark.parametrize(
    ("comparison", "at", "above"),
    [(">=", True, False), (">", False, False), ("<=", True, True), ("<", False, True)],
)
def test_a_bound_is_compared(comparison: str, at: bool, above: bool) -> None:
    assert Comparison(comparison).holds(0.6, 0.6) is at
    assert Comparison(comparison).holds(0.6, 0.7) is above


def test_each_unmet_requirement_is_named_with_its_value_and_where_it_is_from() -> None:
    assert faults({"knn/top1": {">=": 0.6}, "train/loss": {"<": 13, ">": 11}}) == []
    assert faults({"knn/top1": {">=": 0.7, "<": 0.5}, "train/loss": {"<": 13}}) == [
        ("require.knn/top1", "knn/top1 is 0.6 (job a), and must be >= 0.7"),
        ("require.knn/top1", "knn/top1 is 0.6 (job a), and must be < 0.5"),
    ]


def test_a_missing_score_is_not_met() -> None:
    assert faults({"linear/top1": {"<": 1}}) == [
        ("require.linear/top1", "linear/top1 has no value, and must be < 1")
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "a/b"},
        {"model": "a:b"},
        {"model": ""},
        {"model": "m", "alias": "latest"},
        {"model": "m", "alias": "V3"},
        {"model": "m", "alias": "a b"},
        {"model": "m", "require": {"knn/top1": {"=": 1}}},
        {"model": "m", "require": {"knn/top1": {}}},
        {"model": "m", "require": {"knn/top1": {">": float("nan")}}},
        {"model": "m", "gate": {}},
    ],
)
def test_what_cannot_be_registered_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Registration.model_validate(wrong)


def test_a_requirement_is_read_from_text() -> None:
    assert read_requirement("knn/top1>=0.6") == {"knn/top1": {">=": 0.6}}
    assert read_requirement(" train/loss < 1e2 ") == {"train/loss": {"<": 100.0}}
    for wrong in ("knn/top1", "knn/top1=0.6", ">=1", "knn/top1>=much", "knn/top1==1"):
        with pytest.raises(InvalidRequest, match="must be METRIC>=NUMBER"):
            read_requirement(wrong)
