"""Shared memory, through which loader processes hand over their batches."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from vicreg_workers.selfsup.distributed import processes_on_node

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
"""Where Linux keeps it. Containers have 64 MB unless they are given more."""
SHARE = 0.5
"""Of what is free: the part that the loaders of all workers may fill."""
WAITING = 2
"""Batches of each loader that are made or wait to be fetched (torch's ``prefetch_factor``)."""


def loaders_within(loaders: int, batch_bytes: int) -> int:
    """As many loaders as the shared memory has room for.

    A loader that finds none left is killed by the system (``SIGBUS``), and the training with it.

    Args:
        loaders: processes that may be used.
        batch_bytes: size of a batch.

    Returns:
        A number in [0, loaders].
    """
    if not loaders or not FOLDER.is_dir():
        return loaders
    free = shutil.disk_usage(FOLDER).free
    room = int(free * SHARE / processes_on_node() / (WAITING * batch_bytes))
    if room < loaders:
        logger.warning(
            "%d of %d loaders are used: %s has %.0f MB free, and each needs %.0f MB for %d batches;"
            " give the container more shared memory (docker: --shm-size), or lower the batch size",
            room,
            loaders,
            FOLDER,
            free / 1e6,
            WAITING * batch_bytes / 1e6,
            WAITING,
        )
    return min(room, loaders)
