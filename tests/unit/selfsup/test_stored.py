"""What a training of each earlier version has recorded and saved is what it is now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stored import STORED, VERSIONS
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.selfsup.context import NullContext, State
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.train import Pretraining

SPEC = {
    "kind": "pretrain",
    "data": {"source": "digits", "image_size": 8, "share": 0.05},
    "backbone": {"name": "resnet10", "stem": "cifar"},
    "expander": {"layers": [8, 8]},
    "training": {"epochs": 1, "batch_size": 32, "warmup_epochs": 0},
}


ADDED = {"0.2.0": {"images", "start_top1", "start_margin", "below_start", "health"}}
"""What checkpoints have held since, by version: those of that version resume without it."""


class Observer(NullContext):
    """Notes the names of what a training records."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: set[str] = set()
        self.figures: list[str] = []
        self.state: State | None = None

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.recorded |= metrics.keys()

    def figure(self, path: str, png: bytes) -> None:
        self.figures.append(path)

    def save(self, state: State) -> None:
        self.state = state


def observe() -> Observer:
    """What a short training records and saves."""
    spec = parse_spec(SPEC)
    assert isinstance(spec, PretrainSpec)
    observer = Observer()
    Pretraining(spec, open_images(spec.data, Path), observer).run()
    return observer


@pytest.fixture(scope="module")
def observed() -> Observer:
    return observe()


def flat(node: Any, path: str = "") -> dict[str, str]:
    """The types and shapes of a checkpoint's values, by their paths."""
    parts: dict[Any, Any] = {}
    if isinstance(node, dict):
        parts = node
    elif isinstance(node, (list, tuple)) and any(
        isinstance(part, (dict, torch.Tensor)) for part in node
    ):
        parts = dict(enumerate(node))
    elif isinstance(node, torch.Tensor):
        return {path: f"{str(node.dtype).removeprefix('torch.')} {list(node.shape)}"}
    else:
        return {path: type(node).__name__}
    return {
        name: kind
        for key, part in parts.items()
        for name, kind in flat(part, f"{path}/{key}").items()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_metrics_figures_and_checkpoints_keep_their_names(version: str, observed: Observer) -> None:
    before = json.loads((STORED / version / "training.json").read_text())
    # α-ReQ is recorded from 1,000 images on: of fewer it was never right.
    assert set(before["metrics"]) - {"representation/alpha_req"} <= observed.recorded
    assert set(before["figures"]) <= set(observed.figures)
    assert observed.state is not None
    added = ADDED.get(version, set())
    shared = {name: part for name, part in observed.state.shared.items() if name not in added}
    content = {"shared": shared, "own": observed.state.own}
    assert flat(content) == before["checkpoint"]
