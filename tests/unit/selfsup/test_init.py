"""A training starts from weights, frozen for a while, and says if it makes them worse."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.selfsup.data.test_sources import under
from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_train import Recorder, assert_same, root, spec_for  # noqa: F401
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.errors import InvalidInput, Stopped
from vicreg_workers.selfsup.monitor.start import StartWatch
from vicreg_workers.selfsup.train import Pretraining

INIT = {"path": "weights.pth"}
TWO_FROZEN = {"epochs": 4, "batch_size": 8, "warmup_epochs": 0, "freeze_epochs": 2}


class Findings(Recorder):
    """Records what is found wrong."""

    def __init__(self, storage: Path, stopped_after: int | None = None) -> None:
        super().__init__(storage, stopped_after=stopped_after)
        self.found: list[str | None] = []

    def finding(self, name: str, text: str | None) -> None:
        if name == "worse_than_start":
            self.found.append(text)


def give_fives(backbone: nn.Module) -> None:
    """Weights that no initialisation has: every bias of BatchNorm is 5."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "bn" in name and name.endswith("bias"):
                parameter.fill_(5.0)


def begun(folder: Path, spec: PretrainSpec, context: Recorder) -> Pretraining:
    return Pretraining(spec, open_images(spec.data, under(folder)), context, initialise=give_fives)


def backbone_of(pretraining: Pretraining) -> dict[str, torch.Tensor]:
    state = pretraining.network.backbone.state_dict()
    return {name: value.clone() for name, value in state.items()}


def test_the_first_step_is_taken_from_the_weights(root: Path) -> None:  # noqa: F811
    context = Findings(root / "a", stopped_after=1)
    spec = spec_for(2, init=INIT, optimizer={"name": "sgd", "base_lr": 1e-9})
    pretraining = begun(root, spec, context)
    with pytest.raises(Stopped):
        pretraining.run()
    assert backbone_of(pretraining)["bn1.bias"].tolist() == pytest.approx([5.0] * 64)
    # They are measured before it.
    assert [step for step, metrics in context.points if "knn/top1" in metrics] == [0]


def test_a_run_that_goes_on_does_not_read_the_weights_again(root: Path) -> None:  # noqa: F811
    spec = spec_for(2, init=INIT)
    with pytest.raises(Stopped):
        begun(root, spec, Findings(root / "a", stopped_after=1)).run()

    def gone(backbone: nn.Module) -> None:
        raise InvalidInput("the weights are gone")

    images = open_images(spec.data, under(root))
    Pretraining(spec, images, Findings(root / "a"), initialise=gone).run()
    with pytest.raises(InvalidInput, match="are gone"):
        Pretraining(spec, images, Findings(root / "new"), initialise=gone).run()


@pytest.mark.parametrize("method", ["byol", "vicreg"])
def test_a_frozen_backbone_stays_as_it_is(root: Path, method: str) -> None:  # noqa: F811
    changes: dict[str, Any] = {"init": INIT, "training": TWO_FROZEN, "method": {"name": method}}
    # Four steps are two epochs.
    context = Findings(root / "a", stopped_after=4)
    pretraining = begun(root, spec_for(4, **changes), context)
    expander = [p.clone() for p in pretraining.network.expander.parameters()]
    with pytest.raises(Stopped):
        pretraining.run()
    frozen = backbone_of(pretraining)
    fresh = begun(root, spec_for(4, **changes), Findings(root / "b"))
    give_fives(fresh.network.backbone)
    assert_same(frozen, backbone_of(fresh))  # BatchNorm's statistics too
    trained = zip(expander, pretraining.network.expander.parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in trained)
    if pretraining.network.second is not None:
        moving = pretraining.network.second.backbone.state_dict()
        assert torch.equal(moving["conv1.weight"], frozen["conv1.weight"])
    whole = begun(root, spec_for(4, **changes), Findings(root / "c"))
    whole.run()
    thawed = backbone_of(whole)
    assert not torch.equal(thawed["conv1.weight"], frozen["conv1.weight"])
    assert not torch.equal(thawed["bn1.running_mean"], frozen["bn1.running_mean"])
    # One that stopped where it thaws, or while it is frozen, ends at the same weights.
    for folder, stop in (("a", None), ("d", 1)):
        if stop is not None:
            with pytest.raises(Stopped):
                begun(root, spec_for(4, **changes), Findings(root / folder, stop)).run()
        resumed = begun(root, spec_for(4, **changes), Findings(root / folder))
        resumed.run()
        assert_same(whole.network.state_dict(), resumed.network.state_dict())


def _trained_by_two(folder: str, changes: dict[str, Any]) -> dict[str, torch.Tensor]:
    def first_only(backbone: nn.Module) -> None:
        assert rank() == 0
        give_fives(backbone)

    spec = spec_for(4, workers=2, **changes)
    pretraining = Pretraining(
        spec,
        open_images(spec.data, under(Path(folder))),
        Findings(Path(folder) / "two"),
        initialise=first_only,
    )
    pretraining.run()
    return dict(pretraining.network.state_dict())


def test_two_workers_start_from_the_weights_of_the_first(
    root: Path,  # noqa: F811
    two_processes: Gloo,
) -> None:
    changes: dict[str, Any] = {"init": INIT, "training": TWO_FROZEN | {"freeze_epochs": 1}}
    first, second = two_processes.run(partial(_trained_by_two, str(root), changes))
    assert_same(first, second)
    alone = begun(root, spec_for(4, **changes), Findings(root / "one"))
    alone.run()
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-4)


def _failing(folder: str) -> str:
    def broken(backbone: nn.Module) -> None:
        raise InvalidInput("the weights do not fit")

    spec = spec_for(1, workers=2, init=INIT)
    images = open_images(spec.data, under(Path(folder)))
    try:
        Pretraining(spec, images, Findings(Path(folder) / "bad"), initialise=broken).run()
    except InvalidInput as error:
        return str(error)
    return "nothing"


def test_every_worker_fails_if_the_first_cannot_read_them(
    root: Path,  # noqa: F811
    two_processes: Gloo,
) -> None:
    assert two_processes.run(partial(_failing, str(root))) == ["the weights do not fit"] * 2


def test_a_decayed_rate_moves_each_block_by_its_factor(root: Path) -> None:  # noqa: F811
    def moved(decay: float) -> dict[str, torch.Tensor]:
        optimizer = {"name": "sgd", "momentum": 0, "weight_decay": 0, "layer_decay": decay}
        training = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0}
        spec = spec_for(1, optimizer=optimizer, training=training, init=INIT)
        pretraining = begun(root, spec, Findings(root / str(decay)))
        before = {n: p.detach().clone() for n, p in pretraining.network.named_parameters()}
        pretraining.step(next(pretraining.batches.epoch(0)))
        return {n: p.detach() - before[n] for n, p in pretraining.network.named_parameters()}

    whole, decayed = moved(1.0), moved(0.5)
    for name, factor in (
        ("backbone.conv1.weight", 0.5**4),  # the stem and the four blocks of a ResNet-10
        ("backbone.layer1.0.bn2.weight", 0.5**3),
        ("backbone.layer4.0.bn2.weight", 1.0),
        ("expander.0.weight", 1.0),
    ):
        # Steps are differences of nearly equal weights.
        ratio = float((decayed[name] * whole[name]).sum() / whole[name].square().sum())
        assert ratio == pytest.approx(factor, rel=0.02), name


def test_a_start_that_is_not_reached_any_more_is_said() -> None:
    watch = StartWatch(patience=2)
    assert watch.note(10, 0.1) is None  # nothing to compare with
    watch.begin(0.5)
    assert [watch.note(step, top1) for step, top1 in [(20, 0.4), (30, 0.5), (40, 0.45)]] == [
        None
    ] * 3
    later = StartWatch(patience=2)
    later.load_state_dict(watch.state_dict())
    text = later.note(50, 0.3)
    assert text is not None
    assert "since step 40" in text
    assert "0.500" in text
    assert "at step 50 it is 0.300" in text
    assert later.note(60, 0.6) is None


def test_random_weights_must_be_clearly_better() -> None:
    watch = StartWatch(patience=2, from_weights=False)
    watch.begin(0.1, queries=450)  # two standard errors are 0.04
    assert [watch.note(step, top1) for step, top1 in [(10, 0.07), (20, 0.07), (30, 0.07)]] == [
        None
    ] * 3
    assert watch.note(40, 0.05) is None
    later = StartWatch(patience=2, from_weights=False)
    later.load_state_dict(watch.state_dict())
    text = later.note(50, 0.05)
    assert text is not None
    assert later.name == "worse_than_untrained"
    assert "since step 40 knn/top1 is below the 0.100 of its random weights" in text
    assert later.note(60, 0.08) is None


def test_a_training_that_ruins_its_start_is_said_to(root: Path) -> None:  # noqa: F811
    context = Findings(root / "a")
    spec = spec_for(
        8,
        init=INIT,
        optimizer={"name": "sgd", "base_lr": 0.1},
        training={"epochs": 8, "batch_size": 8, "warmup_epochs": 0},
        watch={"collapse_std": 0, "knn_every_epochs": 1, "patience": 1},
    )
    pretraining = begun(root, spec, context)
    start = iter([1.0] + [0.0] * 8)
    measure = pretraining._measurements._measure

    def scripted(*arguments: Any, **named: Any) -> tuple[dict[str, float], str | None]:
        metrics, problem = measure(*arguments, **named)
        return metrics | {"knn/top1": next(start)}, problem

    pretraining._measurements._measure = scripted  # type: ignore[method-assign]
    pretraining.run()
    assert context.found[0] is not None
    assert "since step 2" in context.found[0]
