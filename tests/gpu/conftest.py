"""What the tests on a real GPU share. Without one, every test here is skipped."""

from __future__ import annotations

import pytest
import torch

from tests.unit.gpu.test_training import images
from tests.unit.selfsup.conftest import two_processes
from tests.unit.selfsup.test_train import root

__all__ = ["images", "root", "two_processes"]


@pytest.fixture(scope="session", autouse=True)
def gpu() -> torch.device:
    """The device to test on."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda", 0)


@pytest.fixture
def _without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions in float32 as on CPUs: by default they round their inputs to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def _repeatable_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's deterministic algorithms, where it has the choice."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
