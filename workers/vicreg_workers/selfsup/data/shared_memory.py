"""Shared memory, through which loader processes hand over their batches."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import NamedTuple

from vicreg_workers.selfsup.distributed import processes_on_node

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
"""Where Linux keeps it. Containers have 64 MB unless they are given more."""
SHARE = 0.5
"""Of what is free: the part that the loaders of all workers may fill."""
AHEAD_BYTES = 2**27
"""What a loader makes ahead of need of small batches: so slow images do not hold up the next."""
FEWEST, MOST = 2, 8
"""Batches that a loader makes ahead if there is room, whatever their size."""


class InFlight(NamedTuple):
    """What loader processes make, or have made, before it is used."""

    loaders: int
    batches: int | None
    """Of each loader, at least 1 (torch's ``prefetch_factor``); None without loaders."""


HERE = InFlight(0, None)
"""The process that uses the batches makes them."""


def in_flight(loaders: int, batch_bytes: int, otherwise: str = "lower the batch size") -> InFlight:
    """As many loaders, and batches of each, as the shared memory has room for.

    A loader that finds none left is killed by the system (``SIGBUS``), and the training with it.
    If room is short, each loader has one batch before there are fewer loaders.

    Args:
        loaders: processes that may be used.
        batch_bytes: size of the largest batch.
        otherwise: what helps beside more shared memory, for people.
    """
    size = max(1, batch_bytes)
    wanted = min(MOST, max(FEWEST, AHEAD_BYTES // size))
    if not loaders:
        return HERE
    if not FOLDER.is_dir():
        return InFlight(loaders, wanted)
    free = shutil.disk_usage(FOLDER).free
    workers = processes_on_node()
    room = int(free * SHARE / workers)
    if room < loaders * size:
        logger.warning(
            "%d of %d loaders are used: %s has %.0f MB free, and each needs %.0f MB for a batch; "
            "give the container shared memory for all loaders of all its %d workers (docker: "
            "--shm-size %dm), or %s",
            room // size,
            loaders,
            FOLDER,
            free / 1e6,
            size / 1e6,
            workers,
            math.ceil(workers * loaders * wanted * size / SHARE / 2**20),
            otherwise,
        )
    used = min(loaders, room // size)
    return InFlight(used, min(wanted, room // (used * size))) if used else HERE
