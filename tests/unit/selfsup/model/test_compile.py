"""A module that cannot be compiled runs as it is; its own errors are not hidden."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from vicreg_workers.selfsup.model.compile import Compiled


def no_backend(graph: Any, inputs: Any) -> Any:
    raise ValueError("no backend here")


@pytest.fixture
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nonexistent/c++",))


@pytest.fixture
def _no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=no_backend))


@pytest.mark.parametrize(
    ("failure", "reason"), [("_no_compiler", "C++ compiler"), ("_no_backend", "BackendCompiler")]
)
def test_a_module_that_cannot_be_compiled_runs_as_it_is(
    request: pytest.FixtureRequest, failure: str, reason: str
) -> None:
    request.getfixturevalue(failure)
    warnings: list[str] = []
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    compiled = Compiled(module, warnings.append)
    for _ in range(2):
        x = torch.randn(2, 3)
        assert torch.equal(compiled(x), module(x))
    (warning,) = warnings
    assert reason in warning


class Broken(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 2:
            raise self.error
        return x @ torch.zeros(5, 5)


@pytest.mark.usefixtures("_no_backend")
@pytest.mark.parametrize(("rows", "error"), [(2, KeyError), (3, RuntimeError)])
def test_the_modules_own_errors_pass(rows: int, error: type[Exception]) -> None:
    warnings: list[str] = []
    with pytest.raises(error):
        Compiled(Broken(KeyError("mine")), warnings.append)(torch.randn(rows, 3))
    assert warnings == []
