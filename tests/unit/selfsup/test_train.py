"""The training loop learns, resumes bit for bit, and stops where it must."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_images import make_folder
from vicreg_platform.progress import Progress
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.context import NullContext, State
from vicreg_workers.failures import Diverged
from vicreg_workers.selfsup.images import open_images
from vicreg_workers.selfsup.train import Pretraining


def spec_for(epochs: int, workers: int = 1, **changes: Any) -> PretrainSpec:
    request = {
        "kind": "pretrain",
        "backbone": {"name": "resnet10", "stem": "cifar"},
        "expander": {"layers": [16, 16]},
        "data": {"source": "image_folder", "path": "set", "image_size": 8},
        "augmentation": {"preset": "cifar"},
        "optimizer": {"eta": 0.02},
        "training": {"epochs": epochs, "batch_size": 8, "warmup_epochs": 1},
        "resources": {"workers": workers},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, PretrainSpec)
    return spec


class Recorder(NullContext):
    """Keeps what the loop says, and stops it after some checkpoints as a kill would."""

    def __init__(self, storage: Path, job: str = "job", killed_after: int | None = None) -> None:
        super().__init__()
        self._checkpoints = Checkpoints(str(storage), job, keep=2)
        self._killed_after = killed_after
        self.points: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[str] = []
        self.warnings: list[str] = []
        self.last: Progress | None = None

    def log(self, metrics: Any, step: int) -> None:
        self.points.append((step, dict(metrics)))

    def progress(self, progress: Progress) -> None:
        self.last = progress

    def picture(self, path: str, png: bytes) -> None:
        assert png.startswith(b"\x89PNG")
        self.pictures.append(path)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def save(self, state: State) -> None:
        self._checkpoints.save(state)
        if state.epoch == self._killed_after:
            raise KeyboardInterrupt

    def restore(self) -> State | None:
        return self._checkpoints.load()


def train(root: Path, context: Recorder, spec: PretrainSpec) -> dict[str, torch.Tensor]:
    pretraining = Pretraining(spec, open_images(spec.data, root), context)
    pretraining.run()
    return pretraining.network.state_dict()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_folder(tmp_path / "set", classes=2, images=9)
    return tmp_path


def test_a_run_killed_and_resumed_gives_the_same_weights_bit_for_bit(root: Path) -> None:
    spec = spec_for(epochs=4)
    whole = train(root, Recorder(root / "a"), spec)
    with pytest.raises(KeyboardInterrupt):
        train(root, Recorder(root / "b", killed_after=2), spec)
    torch.manual_seed(99)  # whatever the new process has done before
    resumed = Recorder(root / "b")
    weights = train(root, resumed, spec)
    assert all(torch.equal(whole[name], weights[name]) for name in whole)
    assert min(step for step, _ in resumed.points) > 4  # epochs 1 and 2 were not trained again


def test_the_loop_says_what_the_design_names(root: Path) -> None:
    context = Recorder(root / "storage")
    train(root, context, spec_for(epochs=2))
    names = {name for _, metrics in context.points for name in metrics}
    assert names == {
        "train/loss",
        "train/invariance",
        "train/variance",
        "train/covariance",
        "train/learning_rate",
        "train/images_per_second",
        "train/epoch",
        "representation/std_mean",
        "representation/std_min",
        "representation/covariance",
        "representation/rankme",
        "data/corrupt_images",
    }
    assert context.last is not None
    assert (context.last.epoch, context.last.step, context.last.steps) == (2, 4, 4)
    assert context.pictures[0] == "pictures/views.png"
    assert context.pictures[-1] == "pictures/embedding_std_epoch_00002.png"


def test_finished_training_is_not_repeated(root: Path) -> None:
    spec = spec_for(epochs=2)
    weights = train(root, Recorder(root / "storage"), spec)
    again = Recorder(root / "storage")
    assert all(
        torch.equal(weights[name], value) for name, value in train(root, again, spec).items()
    )
    assert again.points == []


def test_a_corrupt_image_is_warned_of_once_and_counted(root: Path) -> None:
    (root / "set" / "class-0" / "3.png").write_bytes(b"nothing")
    context = Recorder(root / "storage")
    train(root, context, spec_for(epochs=3))
    assert len(context.warnings) == 1
    assert "class-0/3.png" in context.warnings[0]
    counts = [m["data/corrupt_images"] for _, m in context.points if "data/corrupt_images" in m]
    assert counts[-1] == 1.0


def test_a_loss_that_is_not_finite_ends_the_run(root: Path) -> None:
    spec = spec_for(epochs=3, optimizer={"base_lr": 100.0, "eta": 1.0, "momentum": 0.99})
    context = Recorder(root / "storage")
    pretraining = Pretraining(spec, open_images(spec.data, root), context)
    with torch.no_grad():
        next(pretraining.network.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="the loss is nan at step 2"):
        pretraining.run()
    assert Checkpoints(str(root / "storage"), "job", 2).load() is None


def test_collapsed_embeddings_end_the_run(root: Path) -> None:
    spec = spec_for(epochs=1)
    pretraining = Pretraining(spec, open_images(spec.data, root), Recorder(root / "storage"))
    with torch.no_grad():
        pretraining.network.expander[-1].weight.zero_()
    with pytest.raises(Diverged, match="collapsed"):
        pretraining.run()


def test_without_a_variance_term_collapse_is_what_was_asked_for(root: Path) -> None:
    spec = spec_for(epochs=1, method={"variance": 0.0})
    pretraining = Pretraining(spec, open_images(spec.data, root), Recorder(root / "storage"))
    with torch.no_grad():
        pretraining.network.expander[-1].weight.zero_()
    pretraining.run()


def train_on_two(root: Path, storage: str, killed_after: int | None) -> dict[str, torch.Tensor]:
    context = Recorder(root / storage, killed_after=killed_after)
    try:
        return train(root, context, spec_for(epochs=3, workers=2))
    except KeyboardInterrupt:
        return {}


def test_two_workers_stay_equal_and_resume_with_their_own_randomness(
    two_processes: Gloo, root: Path
) -> None:
    first, second = two_processes.run(train_on_two, root, "whole", None)
    assert all(torch.equal(first[name], second[name]) for name in first)
    two_processes.run(train_on_two, root, "killed", 1)
    resumed, _ = two_processes.run(train_on_two, root, "killed", None)
    for name, value in first.items():
        torch.testing.assert_close(resumed[name], value, rtol=1e-5, atol=1e-6)
