"""The device that a process has reserved."""

from __future__ import annotations

import platform

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
