"""LARS and the learning rate are the authors'."""

import math

import pytest
import torch
from torch import nn

from vicreg_platform.specs import AdamW, Backbone, Lars, PretrainSpec, Sgd, parse_spec
from vicreg_workers.selfsup.model.backbones import build_backbone
from vicreg_workers.selfsup.optim.lars import LARS
from vicreg_workers.selfsup.optim.learning_rate import learning_rate, peak_learning_rate
from vicreg_workers.selfsup.optim.optimizers import build_optimizer
from vicreg_workers.selfsup.optim.parameter_groups import parameter_groups
from vicreg_workers.selfsup.parameter_update import ParameterUpdate


def authors_step(
    p: torch.Tensor, grad: torch.Tensor, mu: torch.Tensor, lr: float, wd: float, eta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One parameter's step, written out after You et al. 2017 and the authors' exclusions."""
    if p.ndim > 1:
        grad = grad + wd * p
        if p.norm() > 0 and grad.norm() > 0:
            grad = grad * (eta * p.norm() / grad.norm())
    mu = 0.9 * mu + grad
    return p - lr * mu, mu


def test_lars_steps_like_the_authors() -> None:
    torch.manual_seed(0)
    parameters = [
        nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (4,), (2, 3, 3, 3), (5, 5)]
    ]
    with torch.no_grad():
        parameters[3].zero_()  # a norm of zero switches the scaling off
    expected = [(p.detach().clone(), torch.zeros_like(p)) for p in parameters]
    optimizer = LARS(parameter_groups(parameters), lr=0.5, weight_decay=0.1, eta=0.02)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        expected = [
            authors_step(p, parameter.grad, mu, 0.5, 0.1, 0.02)  # type: ignore[arg-type]
            for (p, mu), parameter in zip(expected, parameters, strict=True)
        ]
        optimizer.step()
    for parameter, (p, _) in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), p)


def test_lars_state_survives_a_checkpoint() -> None:
    def trained(steps: int, state: dict[str, object] | None, start: torch.Tensor) -> LARS:
        parameter = nn.Parameter(start)
        optimizer = LARS(parameter_groups([parameter]), lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(steps):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return optimizer

    whole = trained(4, None, torch.full((2, 2), 3.0))
    half = trained(2, None, torch.full((2, 2), 3.0))
    weights = half.param_groups[0]["params"][0].detach().clone()
    rest = trained(2, half.state_dict(), weights)
    assert torch.equal(rest.param_groups[0]["params"][0], whole.param_groups[0]["params"][0])


def test_the_rate_warms_up_linearly_and_falls_by_a_cosine() -> None:
    peak = peak_learning_rate(0.3, batch_size=512)
    assert peak == pytest.approx(0.6)
    rates = [learning_rate(step, peak, warmup_steps=10, total_steps=110) for step in range(110)]
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.3)
    assert rates[10] == pytest.approx(peak)
    assert rates[60] == pytest.approx(peak * (0.5 + 0.5 * 0.001))
    assert rates[-1] == pytest.approx(peak * (0.5 * (1 + math.cos(math.pi * 0.99)) * 0.999 + 0.001))
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_without_a_warm_up_it_starts_at_the_peak() -> None:
    assert learning_rate(0, 1.0, warmup_steps=0, total_steps=10) == 1.0


def extended(schedule: str, warmup: int) -> ParameterUpdate:
    """Of a run of 110 epochs of one step that goes on from one of 50."""
    spec = parse_spec(
        {
            "kind": "pretrain",
            "data": {"source": "digits"},
            "training": {"epochs": 110, "batch_size": 256, "warmup_epochs": warmup},
            "extends": {"job": "before", "epochs": 50, "schedule": schedule},
        }
    )
    assert isinstance(spec, PretrainSpec)
    parameter = nn.Parameter(torch.zeros(1))
    return ParameterUpdate(spec, [parameter], ("loss",), 1, torch.device("cpu"))


def test_an_annealed_extension_has_the_rates_of_one_long_run() -> None:
    update = extended("anneal", warmup=10)
    for step in range(50, 110):
        cosine = 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert update.learning_rate(step) == pytest.approx(0.3 * (cosine + (1 - cosine) * 0.001))


def test_a_rewarmed_extension_rises_from_the_final_rate_and_falls_back_to_it() -> None:
    update = extended("rewarm", warmup=10)
    rates = [update.learning_rate(step) for step in range(50, 110)]
    assert rates[0] == pytest.approx(0.3 * 0.001)  # where the run before ended
    assert rates[5] == pytest.approx(0.3 * (0.001 + 0.999 / 2))
    assert rates[10] == pytest.approx(0.3)
    assert rates[35] == pytest.approx(0.3 * (0.5 + 0.5 * 0.001))
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_clipped_step_is_bounded_at_the_beginning_of_a_warmup_too() -> None:
    parameter = nn.Parameter(torch.full((4, 4), 100.0))
    optimizer = LARS(parameter_groups([parameter]), lr=0.0, eta=0.02, clip=True)
    parameter.grad = torch.full((4, 4), 0.01)
    optimizer.step()
    assert float(optimizer.state[parameter]["mu"].norm()) == pytest.approx(0.04)


def test_a_transformers_token_and_positions_are_not_decayed() -> None:
    spec = AdamW(name="adamw", weight_decay=0.5)
    backbone = build_backbone(Backbone(name="vit_s"), 32)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    decayed, others = build_optimizer(
        spec, parameter_groups(backbone.parameters()), 0.1
    ).param_groups
    assert {"class_token", "encoder.pos_embedding"} <= {names[id(p)] for p in others["params"]}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)


@pytest.mark.parametrize("spec", [Sgd(name="sgd"), AdamW(name="adamw"), Lars.model_validate({})])
def test_a_first_step_that_is_skipped_leaves_no_trace(spec: Sgd | AdamW | Lars) -> None:
    def after(skipped: bool) -> torch.Tensor:
        parameter = nn.Parameter(torch.linspace(-1, 1, 20000).view(100, 200))
        optimizer = build_optimizer(spec, parameter_groups([parameter]), lr=0.1)
        if skipped:
            parameter.grad = torch.full_like(parameter, torch.inf)
            optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.found_inf = torch.zeros(())  # type: ignore[attr-defined]
        for scale in (1.0, 2.0):
            parameter.grad = scale * torch.ones_like(parameter)
            optimizer.step()
        return parameter.detach()

    torch.full((40000,), 1e23)  # what the allocator would hand out again
    assert torch.equal(after(skipped=True), after(skipped=False))


def test_the_momentum_of_sgd_is_torchs_own() -> None:
    def after(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> torch.Tensor:
        for scale in (1.0, -2.0, 0.5):
            parameter.grad = scale * torch.ones_like(parameter)
            optimizer.step()
        return parameter.detach()

    ours, theirs = (nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    spec = Sgd(name="sgd")
    expected = torch.optim.SGD(
        [theirs], lr=0.1, momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
    )
    assert torch.equal(
        after(build_optimizer(spec, parameter_groups([ours]), lr=0.1), ours),
        after(expected, theirs),
    )
