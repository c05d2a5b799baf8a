"""How much memory this machine or container has."""

from __future__ import annotations

from pathlib import Path

import psutil

LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says what a container may use: cgroups of version 2, and of version 1."""


def memory_limit() -> int:
    """In bytes: what the container may use, or else what the machine has."""
    total = int(psutil.virtual_memory().total)
    for file in LIMITS:
        try:
            return min(total, int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return total
