"""The machine and the software that a run records."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from vicreg_platform.contract.tags import (
    COMMIT_TAG,
    GPU_TAG,
    HOST_TAG,
    PYTHON_TAG,
    RAY_TAG,
    TORCH_TAG,
    VERSION_TAG,
)
from vicreg_workers.selfsup.distributed import gather_objects


def environment_tags(device: torch.device) -> dict[str, str]:
    """The run's tags: versions, the platform's git commit, the host, the GPU's name if any."""
    tags = {
        VERSION_TAG: version("vicreg-platform"),
        TORCH_TAG: torch.__version__,
        RAY_TAG: version("ray"),
        PYTHON_TAG: platform.python_version(),
        HOST_TAG: platform.node(),
    }
    commit = _git_commit()
    if commit:
        tags[COMMIT_TAG] = commit
    if device.type == "cuda":
        tags[GPU_TAG] = torch.cuda.get_device_name(device)
    return tags


def environment_tags_of_all(device: torch.device) -> dict[str, str]:
    """Those of the first worker, with the machines and GPUs of all. Every worker calls it."""
    everywhere: list[dict[str, str]] = gather_objects(environment_tags(device))
    tags = dict(everywhere[0])
    for name in (HOST_TAG, GPU_TAG):
        values = sorted({worker[name] for worker in everywhere if name in worker})
        if values:
            tags[name] = ", ".join(values)
    return tags


def _git_commit() -> str | None:
    """The commit of this checkout. A container image without one sets VICREG_GIT_COMMIT."""
    stated = os.environ.get("VICREG_GIT_COMMIT")
    if stated:
        return stated
    file = Path(__file__)

    def git(*arguments: str) -> str | None:
        asked = subprocess.run(
            ["git", *arguments], cwd=file.parent, capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() if asked.returncode == 0 else None

    try:
        # A repository that merely contains the installed package is not its source.
        tracked = git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD") if tracked else None
    except OSError:
        return None
