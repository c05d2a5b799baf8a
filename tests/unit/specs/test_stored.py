"""Specs that some version of the platform has stored are read, or said to be unreadable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.stored import STORED, VERSIONS
from vicreg_platform.schedules.spec import ScheduleSpec, read_schedule
from vicreg_platform.specs import KINDS, AnySpec, EvaluateSpec, PretrainSpec, SweepSpec, parse_spec
from vicreg_platform.specs.stored import VERSION, Unreadable, read_spec


def stored(version: str, kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((STORED / version / f"{kind}.json").read_text())
    return spec


@pytest.fixture
def pretrain() -> dict[str, Any]:
    return parse_spec({"kind": "pretrain", "data": {"source": "digits"}}).model_dump(mode="json")


def as_far_as(before: Any, after: Any) -> Any:
    """``after``, without the fields that ``before`` does not have."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: as_far_as(before[name], after[name]) for name in before if name in after}
    if isinstance(before, list) and isinstance(after, list):
        return [as_far_as(*pair) for pair in zip(before, after, strict=True)]
    return after


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_a_version_has_stored_is_read(version: str, kind: str) -> None:
    before = stored(version, kind)
    spec = read_spec(before, None)
    assert isinstance(spec, AnySpec)
    # Nothing is lost, and nothing changes; fields of later versions have their defaults.
    assert as_far_as(before, spec.model_dump(mode="json")) == before
    assert spec.needs().cpus >= 1


@pytest.mark.parametrize("version", VERSIONS)
def test_every_schedule_that_a_version_has_stored_is_read(version: str) -> None:
    spec = read_schedule(stored(version, "schedule"), None)
    assert isinstance(spec, ScheduleSpec)
    assert spec.cron == "30 2 * * *"


@pytest.mark.parametrize("written", [None, VERSION])
def test_a_field_that_is_not_known_is_skipped(
    pretrain: dict[str, Any], written: int | None
) -> None:
    pretrain["training"]["gone"] = 3
    pretrain["also_gone"] = {"a": 1}
    spec = read_spec(pretrain, written)
    assert not isinstance(spec, Unreadable)
    del pretrain["training"]["gone"], pretrain["also_gone"]
    assert spec.model_dump(mode="json") == pretrain


def test_fields_that_are_not_known_are_skipped_at_every_depth() -> None:
    sweep = stored(VERSIONS[0], "sweep")
    sweep["gone"] = 1
    sweep["scheduler"]["gone"] = 2
    sweep["base"]["training"] = sweep["base"].get("training", {}) | {"gone": 3}
    assert not isinstance(read_spec(sweep, VERSION), Unreadable)


def test_a_field_that_a_sweep_searches_is_not_skipped() -> None:
    sweep = stored(VERSIONS[0], "sweep")
    sweep["space"]["method.gone"] = {"choice": [1, 2]}
    unreadable = read_spec(sweep, VERSION)
    assert isinstance(unreadable, Unreadable)
    assert "space.method.gone" in unreadable.reason


def test_a_field_that_is_not_there_takes_its_default(pretrain: dict[str, Any]) -> None:
    del pretrain["watch"], pretrain["retry"]
    spec = read_spec(pretrain, VERSION)
    assert not isinstance(spec, Unreadable)
    assert spec.retry.max_attempts == 3


def test_a_field_of_a_newer_version_is_not_skipped(pretrain: dict[str, Any]) -> None:
    # Without it the job would train something else.
    assert not isinstance(read_spec(pretrain, VERSION + 1), Unreadable)
    pretrain["training"]["later"] = 4
    unreadable = read_spec(pretrain, VERSION + 1)
    assert isinstance(unreadable, Unreadable)
    assert "newer version" in unreadable.reason
    assert "training.later" in unreadable.reason


@pytest.mark.parametrize(
    "spec",
    [None, [], "text", 3, {}, {"kind": "old"}, {"kind": "pretrain"}, {"kind": ["pretrain"]}],
)
def test_what_is_no_spec_is_unreadable(spec: object) -> None:
    assert isinstance(read_spec(spec, VERSION), Unreadable)
    assert isinstance(read_schedule(spec, VERSION), Unreadable)


def test_a_value_that_is_not_allowed_is_named(pretrain: dict[str, Any]) -> None:
    pretrain["training"]["epochs"] = -1
    unreadable = read_spec(pretrain, VERSION)
    assert isinstance(unreadable, Unreadable)
    assert "training.epochs" in unreadable.reason


def test_jobs_from_before_another_way_to_crop_keep_theirs(pretrain: dict[str, Any]) -> None:
    """One that resumes would otherwise go on with other views."""
    del pretrain["augmentation"]["resample"]
    before, now = read_spec(pretrain, 2), read_spec(pretrain, VERSION)
    assert isinstance(before, PretrainSpec)
    assert isinstance(now, PretrainSpec)
    assert (before.augmentation.resample, now.augmentation.resample) == ("pillow", "torch")
    sweep = read_spec(stored(VERSIONS[0], "sweep"), None)
    assert isinstance(sweep, SweepSpec)
    assert sweep.base["augmentation"]["resample"] == "pillow"


@pytest.mark.parametrize("version", VERSIONS)
def test_evaluations_from_before_several_workers_have_one(version: str) -> None:
    spec = read_spec(stored(version, "evaluate"), 5)
    assert isinstance(spec, EvaluateSpec)
    assert spec.resources.workers == 1
