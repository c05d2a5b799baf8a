"""A module that cannot be compiled runs as it is, on all processes; its own errors pass."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from tests.unit.selfsup.processes import Gloo
from vicreg_workers.selfsup.distributed import gather_objects, rank
from vicreg_workers.selfsup.model.compile import Forward, compiled_or_plain

CPU = torch.device("cpu")


def refuse(graph: Any, inputs: Any) -> Any:
    raise torch._inductor.exc.InductorError(ValueError("no kernel"), None)


def as_it_is(graph: Any, inputs: Any) -> Any:
    return graph


@pytest.fixture
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nonexistent/c++",))


@pytest.fixture
def _no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = aot_autograd(fw_compiler=as_it_is, bw_compiler=refuse)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))


@pytest.fixture
def _no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=refuse))


def rehearse(forward: Forward) -> None:
    forward(torch.ones(2, 3)).sum().backward()


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("_no_compiler", "C++ compiler"),
        ("_no_forward", "no kernel"),
        ("_no_backward", "no kernel"),
    ],
)
def test_a_module_that_cannot_be_compiled_runs_as_it_is(
    request: pytest.FixtureRequest, failure: str, reason: str
) -> None:
    request.getfixturevalue(failure)
    warnings: list[str] = []
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert compiled_or_plain(module, rehearse, 1, CPU, warnings.append) is module
    (warning,) = warnings
    assert reason in warning


def test_a_module_is_compiled_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def noted(graph: Any, inputs: Any) -> Any:
        widths.extend(each.shape[1] for each in inputs if each.ndim == 2)
        return graph

    def rehearse_all(forward: Forward) -> None:
        for width in range(3, 15):
            forward(torch.ones(2, width))

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=noted))
    # Twelve: the compiler itself would stop at eight.
    warnings: list[str] = []
    forward = compiled_or_plain(nn.ReLU(), rehearse_all, 12, CPU, warnings.append)
    assert warnings == []
    assert widths == list(range(3, 15))
    rehearse_all(forward)
    assert len(widths) == 12


class Broken(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


@pytest.mark.usefixtures("_no_forward")
def test_the_modules_own_errors_pass() -> None:
    warnings: list[str] = []
    with pytest.raises(KeyError, match="mine"):
        compiled_or_plain(Broken(KeyError("mine")), rehearse, 1, CPU, warnings.append)
    assert warnings == []


class Synchronised(nn.Linear):
    """Waits for the other process in its forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gather_objects(None)
        return super().forward(x)


def compile_where_one_has_no_compiler() -> tuple[bool, list[str]]:
    module = Synchronised(3, 3)
    warnings: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        torch._dynamo.reset()
        if rank() == 1:
            patch.setattr(torch, "compile", partial(torch.compile, backend=refuse))
        forward = compiled_or_plain(module, rehearse, 1, CPU, warnings.append)
    return forward is module, warnings


def test_if_one_process_cannot_compile_none_does(two_processes: Gloo) -> None:
    for plain, warnings in two_processes.run(compile_where_one_has_no_compiler):
        assert plain
        assert "no kernel" in warnings[0]
