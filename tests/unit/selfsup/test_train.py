"""The training loop learns, resumes bit for bit, and stops when it must."""

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.unit.selfsup.data.test_sources import make_folder, under
from tests.unit.selfsup.processes import Gloo
from vicreg_platform.specs import PretrainSpec, parse_spec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.selfsup.context import NullContext, State, TrainingProgress
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import Diverged, InvalidInput, Stopped
from vicreg_workers.selfsup.loss.methods import Losses
from vicreg_workers.selfsup.model import network
from vicreg_workers.selfsup.monitor.divergence import CollapseWatch
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
        "checkpoint": {"every_epochs": 2},
    }
    spec = parse_spec(request | changes)
    assert isinstance(spec, PretrainSpec)
    return spec


class Recorder(NullContext):
    """Records what the loop reports, and stops it after a checkpoint as a kill would."""

    def __init__(
        self, storage: Path, killed_after: int | None = None, stopped_after: int | None = None
    ) -> None:
        super().__init__()
        self._checkpoints = Checkpoints(str(storage), "job", keep=2)
        self._killed_after = killed_after
        self._stopped_after = stopped_after
        self.points: list[tuple[int, dict[str, float]]] = []
        self.figures: list[str] = []
        self.warnings: list[str] = []
        self.last: TrainingProgress | None = None
        self.saved: list[int] = []
        self.sizes: list[int] = []
        """Of what will be saved, then of what is saved: how many numbers."""
        self._looks = 0

    def metrics(self, metrics: Any, step: int) -> None:
        self.points.append((step, dict(metrics)))

    def progress(self, progress: TrainingProgress) -> None:
        self.last = progress

    def figure(self, path: str, png: bytes) -> None:
        assert png.startswith(b"\x89PNG")
        self.figures.append(path)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def will_save(self, state: State) -> None:
        self.sizes.append(size_of(state.shared))
        self._checkpoints.make_room(state)

    def save(self, state: State) -> None:
        self.sizes.append(size_of(state.shared))
        self._checkpoints.save(state)
        self.saved.append(state.step)
        if state.step == self._killed_after:
            self.finish_saving()
            raise KeyboardInterrupt

    def finish_saving(self) -> None:
        self._checkpoints.finish()

    def restore(self) -> State | None:
        return self._checkpoints.load()

    def stopping(self) -> bool:
        self._looks += 1
        return self._looks == self._stopped_after

    def named(self, metric: str) -> list[float]:
        return [metrics[metric] for _, metrics in self.points if metric in metrics]


def train(root: Path, context: Recorder, spec: PretrainSpec) -> dict[str, torch.Tensor]:
    """Train, and return the state of the network and the optimiser at the end."""
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    pretraining.run()
    state = dict(pretraining.network.state_dict())
    for number, entry in pretraining.update.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
    return state | {"random": torch.get_rng_state()}


def size_of(value: Any) -> int:
    """How many numbers the tensors in a state have."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(size_of, parts)) if isinstance(value, dict | list | tuple) else 0


def test_what_will_be_saved_is_known_after_the_first_step(root: Path) -> None:
    """The momentum too: it is most of what the weights are."""
    context = Recorder(root / "a")
    train(root, context, spec_for(epochs=2, checkpoint={"every_epochs": 1}))
    foreseen, *saved = context.sizes
    assert len(saved) == 2
    assert all(abs(size - foreseen) < foreseen / 1000 for size in saved)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_folder(tmp_path / "set", classes=2, images=9)
    return tmp_path


def test_a_run_killed_and_resumed_is_the_same_bit_for_bit(root: Path) -> None:
    spec = spec_for(epochs=2, checkpoint={"every_epochs": 1})
    whole = train(root, Recorder(root / "a"), spec)
    with pytest.raises(KeyboardInterrupt):
        train(root, Recorder(root / "b", killed_after=2), spec)
    torch.manual_seed(99)  # the new process may have drawn before
    resumed = Recorder(root / "b")
    assert_same(whole, train(root, resumed, spec))
    assert min(step for step, _ in resumed.points) > 2  # epoch 1 was not trained again


@pytest.mark.parametrize(("method", "steps"), [("vicreg", 1), ("vicreg", 2), ("byol", 3)])
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(root: Path, method: str, steps: int) -> None:
    spec = spec_for(epochs=2, method={"name": method}, checkpoint={"every_epochs": 9})
    uninterrupted, stopped = Recorder(root / "a"), Recorder(root / "b", stopped_after=steps)
    whole = train(root, uninterrupted, spec)
    with pytest.raises(Stopped, match=f"after step {steps} is saved"):
        train(root, stopped, spec)
    torch.manual_seed(99)
    resumed = Recorder(root / "b")
    assert_same(whole, train(root, resumed, spec))
    for name in ("train/loss", "representation/rankme", "knn/top1"):
        assert stopped.named(name) + resumed.named(name) == uninterrupted.named(name)


SEVERAL: dict[str, Any] = {
    "augmentation": {"preset": "cifar", "views": {"local": 2, "local_size": 8}},
    "data": {"source": "image_folder", "path": "set", "image_size": 16},
    "training": {
        "epochs": 3, "batch_size": 8, "warmup_epochs": 1, "sizes": [[0, 8], [1, 12], [2, 16]],
    },
    "checkpoint": {"every_epochs": 9},
}  # fmt: skip
"""Local views, and a size that changes at the third and at the fifth step."""


@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_whose_views_change_resumes_bit_for_bit(root: Path, steps: int) -> None:
    spec = spec_for(epochs=3, **SEVERAL)
    uninterrupted, stopped = Recorder(root / "a"), Recorder(root / "b", stopped_after=steps)
    whole = train(root, uninterrupted, spec)
    with pytest.raises(Stopped, match=f"after step {steps} is saved"):
        train(root, stopped, spec)
    resumed = Recorder(root / "b")
    assert_same(whole, train(root, resumed, spec))
    for name in ("train/loss", "train/local_invariance"):
        assert stopped.named(name) + resumed.named(name) == uninterrupted.named(name)


def test_random_weights_are_measured_without_a_wait_before_the_first_step(root: Path) -> None:
    """When the first kNN is due: they are made again from the seed. The training is the same."""
    watch = {"knn_every_epochs": 2}
    plain, context = Recorder(root / "a"), Recorder(root / "b")
    never = spec_for(epochs=4, watch={"knn_every_epochs": 0}, checkpoint={"every_epochs": 9})
    expected = train(root, plain, never)
    spec = spec_for(epochs=4, watch=watch, checkpoint={"every_epochs": 9})
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    initial = {n: v.clone() for n, v in pretraining.network.backbone.state_dict().items()}
    seen: list[dict[str, torch.Tensor]] = []
    untrained = pretraining._measurements._diagnostics.untrained

    def noted(backbone: torch.nn.Module) -> tuple[float | None, int]:
        seen.append({n: v.clone() for n, v in backbone.state_dict().items()})
        return untrained(backbone)

    pretraining._measurements._diagnostics.untrained = noted  # type: ignore[method-assign]
    pretraining.run()
    steps = [step for step, metrics in context.points if "knn/top1" in metrics]
    assert steps == [0, 4, 8]
    first = next(number for number, (_, each) in enumerate(context.points) if "knn/top1" in each)
    assert min(step for step, _ in context.points[:first]) > 0
    (made,) = seen
    assert_same(made, initial)
    ended = pretraining.network.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in ended.items())


def test_an_encoder_is_kept_at_its_epochs_before_the_state_is_saved(root: Path) -> None:
    kept: list[tuple[int, int, int]] = []

    class Keeper(Recorder):
        def keep_encoder(self, backbone: torch.nn.Module, epoch: int, step: int) -> None:
            kept.append((epoch, step, len(self.saved)))

    knn = {"protocol": {"name": "knn"}, "at_epochs": [2, 3], "data": {
        "train": {"source": "digits"}, "test": {"source": "digits"}}}  # fmt: skip
    spec = spec_for(epochs=4, evaluations=[knn], checkpoint={"every_epochs": 1})
    train(root, Keeper(root / "a"), spec)
    assert kept == [(2, 4, 1), (3, 6, 2)]


def test_a_size_changes_with_its_epoch(root: Path) -> None:
    spec = spec_for(epochs=3, **SEVERAL)
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), Recorder(root / "a"))
    sides: list[list[int]] = []
    forward = pretraining.forward

    def noted(*views: torch.Tensor) -> Any:
        sides.append([view.shape[-1] for view in views])
        return forward(*views)

    pretraining.forward = noted
    pretraining.run()
    assert sides == [[size, size, 8, 8] for size in (8, 8, 12, 12, 16, 16)]


PLACES: dict[str, Any] = {
    "method": {"name": "vicregl", "layers": [16, 16]},
    "data": {"source": "image_folder", "path": "set", "image_size": 16},
}


@pytest.mark.parametrize("local", [0, 2])
def test_a_training_of_places_learns_and_resumes_bit_for_bit(root: Path, local: int) -> None:
    augmentation = {"preset": "cifar", "views": {"local": local, "local_size": 16}}
    spec = spec_for(epochs=3, **PLACES, augmentation=augmentation, checkpoint={"every_epochs": 9})
    uninterrupted, stopped = Recorder(root / "a"), Recorder(root / "b", stopped_after=2)
    whole = train(root, uninterrupted, spec)
    with pytest.raises(Stopped):
        train(root, stopped, spec)
    resumed = Recorder(root / "b")
    assert_same(whole, train(root, resumed, spec))
    for name in ("train/loss", "train/places_invariance", "train/places_covariance"):
        assert stopped.named(name) + resumed.named(name) == uninterrupted.named(name)
    learning = {"name": "adamw", "base_lr": 0.03}
    spec = spec_for(20, **PLACES, augmentation=augmentation, optimizer=learning)
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), Recorder(root / "c"))
    pretraining.network.train()
    batch = next(pretraining.batches.epoch(0))
    terms = [pretraining.step(batch)[0].terms for _ in range(9)]
    assert terms[-1]["loss"].item() < 0.8 * terms[0]["loss"].item()


def test_a_training_with_local_views_learns(root: Path) -> None:
    training = {"epochs": 20, "batch_size": 16, "warmup_epochs": 0}
    augmentation = {"preset": "cifar", "views": {"local": 3, "local_size": 8}}
    optimizer = {"name": "sgd", "base_lr": 1.0}
    spec = spec_for(20, training=training, augmentation=augmentation, optimizer=optimizer)
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), Recorder(root / "a"))
    pretraining.network.train()
    batch = next(pretraining.batches.epoch(0))
    terms = [pretraining.step(batch)[0].terms for _ in range(9)]
    assert terms[-1]["loss"].item() < 0.7 * terms[0]["loss"].item()
    assert terms[-1]["local_invariance"].item() < terms[0]["local_invariance"].item()


def test_a_network_is_compiled_for_each_size_before_the_training(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = 0

    def counted(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph

    def small(*args: Any) -> torch.nn.Module:
        pooled = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        return torch.nn.Sequential(torch.nn.Conv2d(3, 512, 3), *pooled)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    monkeypatch.setattr(network, "build_backbone", small)
    training = SEVERAL["training"] | {"compile": True}
    spec = spec_for(epochs=3, **(SEVERAL | {"training": training}))
    context = Recorder(root / "a")
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    before = compiled
    assert before > 0
    pretraining.run()
    assert compiled == before
    assert context.warnings == []


def test_a_seed_makes_two_runs_equal_bit_for_bit(root: Path) -> None:
    first, second = (train(root, Recorder(root / name), spec_for(epochs=1)) for name in "ab")
    assert_same(first, second)
    other = spec_for(epochs=1, training={"epochs": 1, "batch_size": 8, "seed": 1})
    third = train(root, Recorder(root / "c"), other)
    assert not torch.equal(first["backbone.conv1.weight"], third["backbone.conv1.weight"])


def test_the_loop_logs_the_documented_metrics(root: Path) -> None:
    context = Recorder(root / "storage")
    train(root, context, spec_for(epochs=2))
    names = {name for _, metrics in context.points for name in metrics}
    assert names == {
        "train/loss",
        "train/invariance",
        "train/variance",
        "train/covariance",
        "train/learning_rate",
        "train/gradient_norm",
        "train/images_per_second",
        "train/epoch",
        "embedding/std_mean",
        "embedding/std_min",
        "embedding/std_low_share",
        "representation/std_mean",
        "representation/std_min",
        "representation/covariance",
        "representation/rankme",
        "representation/nesum",
        "embedding/rankme",
        "knn/top1",
        "data/corrupt_images",
    }
    assert context.last is not None
    assert (context.last.epoch, context.last.step, context.last.steps) == (2, 4, 4)
    assert context.figures[0] == "pictures/views.png"
    assert context.figures[1:] == [
        "pictures/embedding_std_epoch_00001.png",
        "pictures/spectrum_epoch_00001.png",
        "pictures/embedding_std_epoch_00002.png",
        "pictures/spectrum_epoch_00002.png",
        "pictures/neighbours.png",
        "pictures/embedding_map.png",
    ]


def test_neighbours_are_measured_as_often_as_asked(root: Path) -> None:
    context = Recorder(root / "storage")
    train(root, context, spec_for(epochs=3, watch={"knn_every_epochs": 2}))
    steps = [step for step, metrics in context.points if "knn/top1" in metrics]
    assert steps == [0, 4, 6]  # the start, epoch 2, and the last one
    between = Recorder(root / "between")
    often = spec_for(epochs=2, watch={"knn_every_epochs": 1}, checkpoint={"every_epochs": 2})
    train(root, between, often)
    assert len(between.named("knn/top1")) == 3  # not only when a checkpoint is saved
    never = Recorder(root / "never")
    train(root, never, spec_for(epochs=6, watch={"knn_every_epochs": 0}))
    assert never.named("knn/top1") == []
    assert len(never.named("representation/rankme")) == 6  # at least five times


@pytest.mark.parametrize("broken", ["save", "measurement"])
def test_a_network_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint_before(
    root: Path, broken: str
) -> None:
    class Breaks(Recorder):
        """Makes a layer's running statistics overflow, which the training loss does not show."""

        def progress(self, progress: TrainingProgress) -> None:
            if progress.step == (6 if broken == "save" else 8):
                pretraining.network.get_buffer("backbone.bn1.running_mean").fill_(torch.nan)

    context = Breaks(root / "storage")
    spec = spec_for(epochs=10, checkpoint={"every_epochs": 1})
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    message = {"save": "a weight is not finite after step 6", "measurement": "outputs are not"}
    with pytest.raises(Diverged, match=message[broken]):
        pretraining.run()
    state = context.restore()
    assert state is not None
    assert state.step == (4 if broken == "save" else 6)
    assert all(torch.isfinite(value).all() for value in state.shared["network"].values())


def test_epochs_shorter_than_the_interval_are_not_all_saved(root: Path) -> None:
    every = {"every_epochs": 1, "min_interval_seconds": 3600}
    context = Recorder(root / "a")
    train(root, context, spec_for(epochs=5, checkpoint=every))
    assert context.saved == [2, 10]  # the first epoch and the last one
    stopped = Recorder(root / "b", stopped_after=5)
    with pytest.raises(Stopped):
        train(root, stopped, spec_for(epochs=5, checkpoint=every))
    assert stopped.saved == [2, 5]


def test_what_was_saved_is_complete_when_a_training_ends_or_stops(root: Path) -> None:
    class Finishes(Recorder):
        finished = 0

        def finish_saving(self) -> None:
            super().finish_saving()
            self.finished = len(self.saved)

    ended, stopped = Finishes(root / "a"), Finishes(root / "b", stopped_after=3)
    train(root, ended, spec_for(epochs=2))
    assert ended.saved == [4]
    with pytest.raises(Stopped):
        train(root, stopped, spec_for(epochs=2))
    assert (ended.finished, stopped.finished, stopped.saved) == (1, 1, [3])


def test_finished_training_is_not_repeated(root: Path) -> None:
    spec = spec_for(epochs=2)
    weights = train(root, Recorder(root / "storage"), spec)
    again = Recorder(root / "storage")
    assert all(
        torch.equal(weights[name], value) for name, value in train(root, again, spec).items()
    )
    assert again.points == []


@pytest.mark.parametrize("change", ["removed", "added", "renamed", "relabelled"])
def test_a_run_whose_data_changed_does_not_resume(root: Path, change: str) -> None:
    train(root, Recorder(root / "storage"), spec_for(epochs=1))
    first = sorted((root / "set").rglob("*.png"))[0]
    if change == "removed":
        first.unlink()
    elif change == "added":
        shutil.copy(first, first.with_name("new.png"))
    elif change == "renamed":
        first.rename(first.with_name("new.png"))
    else:
        other = max(path for path in (root / "set").iterdir() if path.is_dir())
        first.rename(other / "new.png")
    with pytest.raises(InvalidInput, match="data: the training images have changed"):
        train(root, Recorder(root / "storage"), spec_for(epochs=2))


def test_a_corrupt_image_is_reported_once_and_counted(root: Path) -> None:
    (root / "set" / "class-0" / "3.png").write_bytes(b"nothing")
    context = Recorder(root / "storage")
    train(root, context, spec_for(epochs=3))
    assert len(context.warnings) == 1
    assert "class-0/3.png" in context.warnings[0]
    counts = [m["data/corrupt_images"] for _, m in context.points if "data/corrupt_images" in m]
    assert counts[-1] == 1.0


def poison_at(pretraining: Pretraining, step: int, what: str) -> None:
    """Make the loss or a gradient NaN at one step of the run."""
    if what == "gradient":
        weight = pretraining.network.get_parameter("backbone.conv1.weight")

        def poisoned_gradient(gradient: torch.Tensor) -> torch.Tensor:
            here = pretraining.progress.step + 1 == step
            return gradient * float("nan") if here else gradient

        weight.register_hook(poisoned_gradient)  # type: ignore[no-untyped-call]
        return
    objective = pretraining.loss

    def poisoned(*embeddings: Any, **options: Any) -> Losses:
        losses = objective(*embeddings, **options)
        if pretraining.progress.step + 1 == step:
            for name in ("loss", what):
                losses.terms[name] = losses.terms[name] * float("nan")
        return losses

    poisoned.terms = objective.terms  # type: ignore[attr-defined]
    pretraining.loss = poisoned  # type: ignore[assignment]


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("what", ["covariance", "gradient"])
def test_a_run_that_is_not_finite_stops_before_the_step(
    root: Path, what: str, optimizer: str
) -> None:
    spec = spec_for(epochs=2, optimizer={"name": optimizer}, checkpoint={"every_epochs": 1})
    context = Recorder(root / "storage")
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    poison_at(pretraining, 3, what)
    with pytest.raises(Diverged, match=f"the {what} is nan at step 3"):
        pretraining.run()
    # The weights of the second step, which is also the last checkpoint's.
    kept = context.restore()
    assert kept is not None
    assert kept.step == 2
    for name, parameter in pretraining.network.named_parameters():
        assert torch.equal(parameter.detach(), kept.shared["network"][name]), name


def collapsing(root: Path, storage: str, **changes: Any) -> tuple[Pretraining, Recorder]:
    """A run whose embeddings are a single point from the beginning."""
    spec = spec_for(**changes)
    context = Recorder(root / storage)
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    for parameter in pretraining.network.expander[-1].parameters():
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
    return pretraining, context


def test_a_collapse_that_lasts_ends_the_run(root: Path) -> None:
    pretraining, context = collapsing(root, "a", epochs=4, watch={"collapse_steps": 4})
    with pytest.raises(Diverged, match=r"collapsed: since step 1 .* at step 5 it is 0"):
        pretraining.run()
    assert max(context.named("embedding/std_mean")) == 0.0
    kept = context.restore()
    assert kept is not None
    assert kept.step == 4


def test_a_collapse_is_what_was_asked_for_without_a_variance_term(root: Path) -> None:
    changes = {"epochs": 2, "method": {"variance": 0.0}, "watch": {"collapse_steps": 1}}
    collapsing(root, "a", **changes)[0].run()
    collapsing(root, "b", epochs=2, watch={"collapse_std": 0.0, "collapse_steps": 1})[0].run()


def test_a_short_collapse_is_forgiven() -> None:
    watch = CollapseWatch(threshold=0.1, patience=3)
    spreads = [0.0, 0.0, 0.5, 0.0, 0.0, 0.0]
    assert [watch.note(step, std) for step, std in enumerate(spreads)] == [None] * 6
    assert "since step 3" in str(watch.note(6, 0.0))


def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    context = Recorder(root / "a")
    training = {"epochs": 1, "batch_size": 8, "warmup_epochs": 1}
    compiled = train(root, context, spec_for(epochs=1, training=training | {"compile": True}))
    assert_same(compiled, train(root, Recorder(root / "b"), spec_for(epochs=1)))
    (warning,) = context.warnings
    assert "no compiler here" in warning


def run_of_several_views(root: Path, storage: str) -> dict[str, torch.Tensor]:
    return train(root, Recorder(root / storage), spec_for(epochs=3, workers=2, **SEVERAL))


def test_two_workers_train_on_views_that_change_as_one(two_processes: Gloo, root: Path) -> None:
    first, second = two_processes.run(run_of_several_views, root, "two")
    del first["random"], second["random"]
    assert_same(first, second)
    alone = train(root, Recorder(root / "one"), spec_for(epochs=3, **SEVERAL))
    for name, value in first.items():
        if value.is_floating_point():
            torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-4)


def run_on_two(
    root: Path, storage: str, killed_after: int | None, stopped_after: int | None
) -> dict[str, torch.Tensor]:
    context = Recorder(root / storage, killed_after, stopped_after if rank() == 0 else None)
    try:
        return train(root, context, spec_for(epochs=2, workers=2, checkpoint={"every_epochs": 1}))
    except (KeyboardInterrupt, Stopped):
        return {}


def parallel_module(root: Path, storage: str) -> tuple[bool, bool]:
    spec = spec_for(epochs=1, workers=2)
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), Recorder(root / storage))
    module = pretraining.forward
    assert isinstance(module, DistributedDataParallel)
    return module.gradient_as_bucket_view, module.forward_sync_buffers


def test_gradients_are_not_copied_nor_statistics_sent_beside_what_is_synchronised(
    two_processes: Gloo, root: Path
) -> None:
    """DDP would keep each gradient twice, and send all BatchNorm buffers with every step."""
    for views, sends_buffers in two_processes.run(parallel_module, root, "two"):
        assert views
        assert not sends_buffers


@pytest.fixture(scope="module")
def of_two(two_processes: Gloo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two workers: a whole one, one that was killed and one that was asked to stop."""
    root = tmp_path_factory.mktemp("of_two")
    make_folder(root / "set", classes=2, images=9)
    first, second = two_processes.run(run_on_two, root, "whole", None, None)
    del first["random"], second["random"]  # each draws its own
    assert_same(first, second)
    torch.save(first, root / "whole.pt")
    two_processes.run(run_on_two, root, "killed", 2, None)
    # Only one of them is asked to stop.
    two_processes.run(run_on_two, root, "stopped", None, 3)
    return root


@pytest.mark.parametrize("ended", ["killed", "stopped"])
def test_two_workers_stay_equal_and_resume_bit_for_bit(
    two_processes: Gloo, of_two: Path, root: Path, ended: str
) -> None:
    shutil.copytree(of_two / ended, root / ended)
    resumed, _ = two_processes.run(run_on_two, root, ended, None, None)
    del resumed["random"]
    assert_same(torch.load(of_two / "whole.pt"), resumed)


def test_another_number_of_workers_resumes_with_a_warning(of_two: Path, root: Path) -> None:
    shutil.copytree(of_two / "killed", root / "storage")
    context = Recorder(root / "storage")
    alone = train(root, context, spec_for(epochs=2))
    (warning,) = context.warnings
    assert "saved by 2 workers, and the run resumes with 1" in warning
    # Images, views and batches are the same: only rounding differs from the run of two workers.
    for name, value in torch.load(of_two / "whole.pt").items():
        if value.is_floating_point():
            torch.testing.assert_close(alone[name], value, rtol=1e-3, atol=1e-4)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> PretrainSpec:
    """A run with the loss scale of fp16 but the arithmetic of fp32, which is fast on CPUs."""
    monkeypatch.setattr("vicreg_workers.selfsup.train.autocast", lambda *_: nullcontext())
    spec = spec_for(epochs=2, checkpoint={"every_epochs": 9})
    training = spec.training.model_copy(update={"precision": "fp16"})
    return spec.model_copy(update={"training": training})


def test_the_loss_scale_is_kept_over_a_stop(root: Path, scaled: PretrainSpec) -> None:
    whole = train(root, Recorder(root / "a"), scaled)
    with pytest.raises(Stopped):
        train(root, Recorder(root / "b", stopped_after=3), scaled)
    kept = Checkpoints(str(root / "b"), "job", 2).load()
    assert kept is not None
    assert kept.shared["scaler"]["_growth_tracker"] == 3
    assert_same(whole, train(root, Recorder(root / "b"), scaled))


def test_with_a_loss_scale_too_nothing_is_trained_after_a_loss_that_is_not_finite(
    root: Path, scaled: PretrainSpec
) -> None:
    """On GPUs, the loop sees it some steps later."""
    pretraining = Pretraining(scaled, open_images(scaled.data, under(root)), Recorder(root / "a"))
    weight = pretraining.network.get_parameter("backbone.conv1.weight")
    poison_at(pretraining, 2, "covariance")
    first, second = pretraining.batches.epoch(0)
    pretraining.step(first)
    before = weight.detach().clone()
    pretraining.step(second)
    pretraining.step(first)
    assert torch.equal(weight, before)
    problem = pretraining.update.problem()
    assert problem is not None
    assert problem.step == 2


def test_a_gradient_that_overflows_half_precision_only_skips_its_step(
    root: Path, scaled: PretrainSpec
) -> None:
    pretraining = Pretraining(scaled, open_images(scaled.data, under(root)), Recorder(root / "a"))
    weight = pretraining.network.get_parameter("backbone.conv1.weight")
    before = weight.detach().clone()
    poison_at(pretraining, 2, "gradient")
    first, second = pretraining.batches.epoch(0)
    pretraining.step(first)  # the warm-up starts at a learning rate of 0
    pretraining.step(second)
    assert torch.equal(weight, before)
    assert pretraining.update.scaler.get_scale() == 2.0**15  # half of torch's initial scale
    pretraining.step(first)
    assert not torch.equal(weight, before)
    assert pretraining.update.problem() is None
