"""The device that a process has reserved, and what the process takes of it."""

from __future__ import annotations

import platform
import re
import resource
import sys
from pathlib import Path

import torch

from vicreg_workers.failures import InfrastructureFailure


def reserved_device(gpus: float, of_ray: torch.device | None = None) -> torch.device:
    """The device to compute on: the CPU, unless the process has reserved a GPU.

    Args:
        gpus: how many it has reserved.
        of_ray: the one that Ray Train names; default: the first that the process sees.

    Raises:
        InfrastructureFailure: it has reserved a GPU, and there is none to be used.
    """
    if not gpus:
        return torch.device("cpu")
    device = of_ray or torch.device("cuda:0")
    if device.type != "cuda" or not torch.cuda.is_available():
        raise InfrastructureFailure(
            f"the job has reserved a GPU, and torch {torch.__version__} finds none on "
            f"{platform.node()}: check its driver (nvidia-smi) and that torch is a CUDA build"
        )
    return device


def name_of(device: torch.device) -> str:
    """The name of a GPU, or ``CPU``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has taken so far, in bytes.

    Of a GPU, what torch has reserved there; the driver's own context, some hundred MiB, is not
    counted. On a CPU, the process's resident memory: its loaders are other processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        # The program's own. What getrusage says is also of the one that has started it, from which
        # this process was forked.
        status = Path("/proc/self/status").read_text()
        if kib := re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE):
            return int(kib[1]) * 1024
    except OSError:
        pass  # not Linux
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
