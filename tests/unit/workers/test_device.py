"""A process computes on what it has reserved, or says why it cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vicreg_workers.device import name_of, reserved_device
from vicreg_workers.failures import InfrastructureFailure


def test_without_gpus_it_is_the_cpu() -> None:
    assert reserved_device(0) == torch.device("cpu")


@pytest.mark.parametrize("of_ray", [None, torch.device("cpu"), torch.device("cuda:1")])
def test_a_gpu_that_is_not_there_is_named(of_ray: torch.device | None) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InfrastructureFailure, match=r"has reserved a GPU, and torch .* finds none"):
        reserved_device(1, of_ray)


FRESH = """
import torch

from vicreg_workers.device import peak_memory

CPU = torch.device("cpu")
before = peak_memory(CPU)
held = bytearray(b"x") * 2**28
del held
print(peak_memory(CPU) - before)
"""


def test_on_a_cpu_memory_is_the_most_that_the_process_itself_has_taken() -> None:
    """In a process of its own: how much this one has taken depends on the tests before."""
    taken = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert 0.95 * 2**28 < int(taken.stdout) < 1.1 * 2**28, taken.stderr
    assert name_of(torch.device("cpu")) == "CPU"
