"""A process computes on what it has reserved, or says why it cannot."""

from __future__ import annotations

import pytest
import torch

from vicreg_workers.device import name_of, peak_memory, reserved_device
from vicreg_workers.failures import InfrastructureFailure


def test_without_gpus_it_is_the_cpu() -> None:
    assert reserved_device(0) == torch.device("cpu")


@pytest.mark.parametrize("of_ray", [None, torch.device("cpu"), torch.device("cuda:1")])
def test_a_gpu_that_is_not_there_is_named(of_ray: torch.device | None) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InfrastructureFailure, match=r"has reserved a GPU, and torch .* finds none"):
        reserved_device(1, of_ray)


def test_on_a_cpu_memory_is_that_of_the_process() -> None:
    before = peak_memory(torch.device("cpu"))
    # More than there ever was: what the process has given back before may be used again.
    held = torch.ones(before + 2**26, dtype=torch.uint8)
    assert held.sum() == len(held)
    assert peak_memory(torch.device("cpu")) >= before + 2**26
    assert name_of(torch.device("cpu")) == "CPU"
