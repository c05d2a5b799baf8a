"""A run that diverges leaves its step, which is repeated and says what was not finite first."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.selfsup.data.test_sources import make_folder, under
from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_train import Recorder, poison_at, spec_for
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.capture import Capture
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import Diverged, InvalidInput
from vicreg_workers.selfsup.model.network import JointEmbedding, build_network
from vicreg_workers.selfsup.replay import Replay, replay
from vicreg_workers.selfsup.train import Pretraining

CPU = torch.device("cpu")
LOCAL = {"preset": "paper", "views": {"local": 2, "local_size": 16}}
DROPPING: dict[str, Any] = {"backbone": {"name": "timm/resnet18", "drop_path": 0.5}}
LARGE = {"source": "image_folder", "path": "set", "image_size": 16}


class Captor(Recorder):
    """Keeps the capture, as it is read back from its file."""

    captured: Capture | None = None

    def capture(self, take: Callable[[], Capture | None]) -> str | None:
        taken = take()
        if taken is not None:
            file = io.BytesIO()
            taken.save(file)
            self.captured = Capture.load(io.BytesIO(file.getvalue()))
        return "it is kept"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_folder(tmp_path / "set", classes=2, images=9)
    return tmp_path


def diverging(
    root: Path, spec: PretrainSpec, spoil: Callable[[Pretraining], None] = lambda _: None
) -> tuple[Pretraining, Captor]:
    """A run that has diverged, and what it has left."""
    context = Captor(root / "storage")
    pretraining = Pretraining(spec, open_images(spec.data, under(root)), context)
    spoil(pretraining)
    with pytest.raises(Diverged, match=r"; it is kept$"):
        pretraining.run()
    return pretraining, context


def captured(*arguments: Any) -> Capture:
    capture = diverging(*arguments)[1].captured
    assert capture is not None
    return capture


def fault_of(made: Replay) -> str:
    assert made.fault is not None
    return made.fault.name


def bit_for_bit(made: Replay, capture: Capture) -> bool:
    own = {name: value for name, value in capture.values.items() if name != "gradient"}
    # As text: nan is not equal to nan.
    return str(made.values) == str(own)


def test_a_learning_rate_that_is_too_high_leaves_a_step_that_overflows_again(root: Path) -> None:
    spec = spec_for(epochs=20, optimizer={"name": "sgd", "base_lr": 100.0})
    capture = captured(root, spec)
    assert (capture.spec, capture.workers, capture.device) == (spec, 1, "cpu")
    made = replay(capture, CPU)
    assert made.fault is not None
    assert made.fault.bad > 0
    assert all(value < float("inf") for _, value in made.passed)
    assert bit_for_bit(made, capture)


def weights_of(name: str, value: float) -> Callable[[Pretraining], None]:
    """Has a layer's weights be huge."""

    def spoil(pretraining: Pretraining) -> None:
        with torch.no_grad():
            pretraining.network.get_parameter(name).fill_(value)

    return spoil


def test_the_first_module_whose_output_overflows_is_named(root: Path) -> None:
    capture = captured(root, spec_for(epochs=2), weights_of("backbone.layer3.0.conv2.weight", 3e38))
    made = replay(capture, CPU)
    assert fault_of(made) == "the output of backbone.layer3.0.conv2 (forward)"
    # With what was computed right before it.
    assert made.passed[-1][0] == "backbone.layer3.0.relu (forward)"
    assert str(made.fault).startswith("the output of backbone.layer3.0.conv2 (forward): ")


def test_a_weight_that_is_not_finite_before_the_step_is_named(root: Path) -> None:
    made = replay(
        captured(root, spec_for(epochs=2), weights_of("expander.0.weight", torch.inf)), CPU
    )
    assert fault_of(made) == "the parameter expander.0.weight, before the step"


class InfBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.inf


class OverflowsBackward(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        computed: Tensor = InfBackward.apply(x)
        return computed


def plant(network: JointEmbedding) -> JointEmbedding:
    """Have the ReLU of a stage overflow backward."""
    network.get_submodule("backbone.layer2.0").relu = OverflowsBackward()
    return network


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_module_whose_backward_pass_overflows_is_named(
    root: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "accumulate": accumulate}
    spec = spec_for(epochs=2, training=training)
    capture = captured(root, spec, lambda pretraining: plant(pretraining.network))
    planted = "vicreg_workers.selfsup.replay.build_network"
    monkeypatch.setattr(planted, lambda *args: plant(build_network(*args)))
    made = replay(capture, CPU)
    assert fault_of(made) == (
        "the gradient that backbone.layer2.0.relu passes back (backward, InfBackwardBackward)"
    )
    # Backward, the module after it was the last.
    assert made.passed[-1][0].startswith("backbone.layer3.0")
    assert bit_for_bit(made, capture)


def large_inputs(pretraining: Pretraining) -> None:
    """Has the last layer's inputs be huge, and the embeddings what they were."""
    with torch.no_grad():
        pretraining.network.get_parameter("expander.1.weight").mul_(1e37)
        pretraining.network.get_parameter("expander.3.weight").mul_(1e-37)


@pytest.mark.parametrize(
    ("variance", "fault"),
    [
        (1e4, "the gradient of the parameter expander.3.weight (backward, "),
        # Each gradient is finite, and the sum of their squares is not.
        (25.0, "the norm of all gradients"),
    ],
)
def test_the_gradient_that_overflows_is_named(root: Path, variance: float, fault: str) -> None:
    spec = spec_for(epochs=2, method={"name": "vicreg", "variance": variance})
    made = replay(captured(root, spec, large_inputs), CPU)
    assert fault_of(made).startswith(fault)


def test_a_term_of_the_loss_that_overflows_is_named(root: Path) -> None:
    made = replay(captured(root, spec_for(epochs=2), weights_of("expander.3.weight", 1e15)), CPU)
    assert fault_of(made) == "the loss's term covariance"


def test_what_does_not_happen_again_is_finite(root: Path) -> None:
    """The fault is in what is not part of the step: a hook of the test."""
    capture = captured(root, spec_for(epochs=2), lambda each: poison_at(each, 3, "gradient"))
    assert capture.step == 3
    made = replay(capture, CPU)
    assert made.fault is None
    assert bit_for_bit(made, capture)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "byol"}},
        {"method": {"name": "vicregl", "layers": [16, 16]}, "augmentation": LOCAL, "data": LARGE},
        {"method": {"name": "simclr"}},
        {"training": {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "accumulate": 2}},
        {"training": {"epochs": 2, "batch_size": 8, "checkpoint_activations": True}},
        {"training": {"epochs": 2, "batch_size": 8, "precision": "bf16"}},
    ],
    ids=["byol", "vicregl", "simclr", "accumulate", "checkpoint", "bf16"],
)
def test_a_step_is_repeated_bit_for_bit(root: Path, changes: dict[str, Any]) -> None:
    spec = spec_for(epochs=2, **changes)
    capture = captured(root, spec, lambda each: poison_at(each, 3, "gradient"))
    made = replay(capture, CPU)
    assert made.fault is None
    assert bit_for_bit(made, capture)


def test_layers_that_draw_at_random_draw_the_same(root: Path) -> None:
    spec = spec_for(epochs=2, **DROPPING)
    capture = captured(root, spec, lambda each: poison_at(each, 3, "gradient"))
    assert bit_for_bit(replay(capture, CPU), capture)
    other = replace(capture, random={"torch": torch.get_rng_state()})
    assert not bit_for_bit(replay(other, CPU), capture)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "byol"}},
        DROPPING,
    ],
    ids=["byol", "drop_path"],
)
def test_a_step_is_captured_some_steps_later_as_it_was(
    root: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs, the loop looks every ten steps."""
    make_folder(root / "many" / "set", classes=2, images=30)
    look = Pretraining.check

    def rarely(self: Pretraining, losses: Any) -> bool:
        return look(self, losses) if self.progress.step % 5 == 0 else False

    spec = spec_for(epochs=2, **changes)
    at_once = captured(root / "many", spec, lambda each: poison_at(each, 3, "gradient"))
    monkeypatch.setattr(Pretraining, "check", rarely)
    pretraining, context = diverging(
        root / "many", spec, lambda each: poison_at(each, 3, "gradient")
    )
    assert pretraining.progress.step == 5
    late = context.captured
    assert late is not None
    assert late.step == 3
    assert str(late.values) == str(at_once.values)  # nan is not equal to nan
    parameters = dict(pretraining.network.named_parameters())
    for name in parameters:
        assert torch.equal(late.network[name], at_once.network[name]), name
    assert all(map(torch.equal, late.views, at_once.views))
    assert bit_for_bit(replay(late, CPU), late)


def capture_of_two(root: Path, accumulate: int) -> Capture | None:
    training = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "accumulate": accumulate}
    spec = spec_for(epochs=2, workers=2, training=training)
    spoil = weights_of("backbone.layer3.0.conv2.weight", 3e38)
    return diverging(root, spec, spoil)[1].captured


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_workers_leave_the_whole_batch(
    two_processes: Gloo, root: Path, accumulate: int
) -> None:
    capture, nothing = two_processes.run(capture_of_two, root, accumulate)
    assert nothing is None
    assert capture.workers == 2
    training = capture.spec.training
    alone = Pretraining(
        spec_for(epochs=2, training=training.model_dump()),
        open_images(capture.spec.data, under(root)),
        Recorder(root / "alone"),
    )
    batch = next(alone.batches.epoch(0, capture.step - 1))
    assert all(map(torch.equal, capture.views, batch.views))
    assert fault_of(replay(capture, CPU)) == "the output of backbone.layer3.0.conv2 (forward)"


def finite_capture_of_two(root: Path, accumulate: int) -> Capture | None:
    training = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "accumulate": accumulate}
    spec = spec_for(epochs=2, workers=2, training=training)
    return diverging(root, spec, lambda each: poison_at(each, 3, "gradient"))[1].captured


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_of_two_workers_is_repeated_by_one(
    two_processes: Gloo, root: Path, accumulate: int
) -> None:
    capture, _ = two_processes.run(finite_capture_of_two, root, accumulate)
    made = replay(capture, CPU)
    assert made.fault is None
    # What is of the whole batch is the same; each worker's invariance is of its own images.
    for name in ("variance", "covariance"):
        assert made.values[name] == pytest.approx(capture.values[name], rel=1e-4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"nothing", "it is damaged, or not a capture"),
        ({"weights": torch.ones(2)}, "it is not a capture"),
        ({"format": 0}, "another version of the platform wrote it"),
    ],
)
def test_a_file_that_is_no_capture_says_so(content: Any, reason: str) -> None:
    file = io.BytesIO()
    if isinstance(content, bytes):
        file.write(content)
    else:
        torch.save(content, file)
    with pytest.raises(InvalidInput, match=reason):
        Capture.load(io.BytesIO(file.getvalue()))
