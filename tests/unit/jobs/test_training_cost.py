"""What a pretraining would take, by earlier runs: what is alike, and which is preferred."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from vicreg_platform.jobs.schemas import CostBasis
from vicreg_platform.jobs.tables import Attempt, Job
from vicreg_platform.jobs.training_cost import (
    MeasuredRun,
    epochs_of,
    step_cost_key,
    training_cost,
)
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_platform.specs.stored import VERSION

WHOLE = MeasuredRun(
    job="whole",
    name="first",
    workers=2,
    batch_size=100,
    steps_per_epoch=10,
    images_per_second=9_000.0,
    steps=50,
    seconds=49.0,
    device="CPU",
    peak_memory=2**30,
)
RUNNING = replace(WHOLE, job="running", images_per_second=200.0, steps=0, seconds=0.0)


def spec(**changes: Any) -> PretrainSpec:
    parsed = parse_spec({"kind": "pretrain", "data": {"source": "digits"}} | changes)
    assert isinstance(parsed, PretrainSpec)
    return parsed


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"epochs": 7, "seed": 3, "warmup_epochs": 1}},
        {"method": {"name": "vicreg", "variance": 1.0}},
        {"optimizer": {"name": "lars", "base_lr": 1.0}},
        {"name": "other", "experiment": "other", "labels": {"team": "vision"}, "priority": 3},
        {"evaluations": [{"protocol": {"name": "knn"}}], "checkpoint": {"keep": 9}},
        {"watch": {"knn_every_epochs": 1}},
    ],
)
def test_what_changes_the_result_alone_costs_the_same(changes: dict[str, Any]) -> None:
    assert step_cost_key(spec(**changes)) == step_cost_key(spec())


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batch_size": 128}},
        {"training": {"accumulate": 2}},
        {"training": {"precision": "bf16"}},
        {"training": {"compile": True}},
        {"backbone": {"name": "resnet50"}},
        {"expander": {"layers": [64, 64]}},
        {"data": {"source": "digits", "image_size": 40}},
        {"augmentation": {"views": {"local": 2, "local_size": 32}}},
        {"method": {"name": "simsiam"}},
        {"optimizer": {"name": "sgd"}},
        {"resources": {"cpus_per_worker": 2}},
        {"resources": {"gpus_per_worker": 1}, "training": {"precision": "fp32"}},
        {"training": {"sizes": [[0, 32], [1, 40]]}, "data": {"source": "digits", "image_size": 40}},
    ],
)
def test_what_changes_the_work_of_a_step_costs_something_else(changes: dict[str, Any]) -> None:
    assert step_cost_key(spec(**changes)) != step_cost_key(spec())


def test_sizes_that_change_cost_the_same_over_as_many_epochs_alone() -> None:
    def key(epochs: int) -> str:
        training = {"epochs": epochs, "sizes": [[0, 32], [2, 40]]}
        return step_cost_key(spec(data={"source": "digits", "image_size": 40}, training=training))

    assert key(10) == key(10)
    assert key(10) != key(20)


def test_a_whole_run_counts_with_all_that_was_done_between_its_steps() -> None:
    cost = training_cost(20, [RUNNING, WHOLE])
    assert cost is not None
    # 49 steps in 49 seconds; its last reading, of a few steps, was much faster.
    assert (cost.seconds, cost.images_per_second) == (200.0, 100.0)
    assert (cost.job, cost.basis, cost.workers) == ("whole", CostBasis.RUN, 2)
    assert (cost.device, cost.peak_memory) == ("CPU", 2**30)


def test_a_run_that_goes_on_counts_by_its_rate() -> None:
    cost = training_cost(20, [RUNNING])
    assert cost is not None
    assert (cost.seconds, cost.basis, cost.job) == (100.0, CostBasis.RATE, "running")


def test_the_few_steps_after_a_stop_are_no_measure() -> None:
    resumed = replace(WHOLE, job="resumed", steps=9, seconds=1.0)
    cost = training_cost(20, [resumed, WHOLE])
    assert cost is not None
    assert cost.job == "whole"
    cost = training_cost(20, [replace(resumed, steps=10, seconds=9.0), WHOLE])
    assert cost is not None
    assert (cost.job, cost.images_per_second) == ("resumed", 100.0)


def test_without_a_run_nothing_is_guessed() -> None:
    assert training_cost(20, []) is None


def row(**changes: Any) -> Job:
    """A stored run of two epochs with its attempt, its progress changed."""
    moments = {"first_step": "2026-11-28T12:00:00Z", "last_step": "2026-11-28T12:00:19Z"}
    progress = {
        "epoch": 2, "epochs": 2, "step": 20, "steps": 20, "resumed_at": 0,
        "images_per_second": 256.0, "eta_seconds": 0.0, "peak_memory": 2**30,
    }  # fmt: skip
    timeline = changes.pop("timeline", moments)
    return Job(
        id="a" * 20,
        name="run",
        kind="pretrain",
        spec=spec(training={"epochs": 2, "batch_size": 256}).model_dump(mode="json"),
        spec_version=VERSION,
        progress=progress | changes,
        workers=2,
        attempts=[Attempt(number=1, timeline=timeline)],
    )


def test_a_stored_run_is_measured_by_its_first_and_last_step() -> None:
    run = MeasuredRun.of(row())
    assert run is not None
    assert (run.steps, run.seconds, run.pace) == (20, 19.0, 256.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"images_per_second": math.nan},
        {"images_per_second": math.inf},
        {"images_per_second": 1e-320},
        {"step": 10**400, "steps": 10**400},
        {"resumed_at": -(10**12)},
        {"resumed_at": 21},
        {"epochs": 10**30},
        {"peak_memory": -1},
        # An attempt that has grown from one worker to two has not begun to train.
        {"timeline": {}},
    ],
)
def test_what_no_run_can_have_written_is_not_measured(changes: dict[str, Any]) -> None:
    assert MeasuredRun.of(row(**changes)) is None


def test_an_extended_training_takes_the_epochs_that_are_left() -> None:
    extends = {"job": "a" * 20, "epochs": 30, "schedule": "anneal"}
    assert epochs_of(spec(training={"epochs": 100})) == 100
    assert epochs_of(spec(training={"epochs": 100}, extends=extends)) == 70
