"""Running out of GPU memory, said in the user's terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vicreg_workers.failures import OutOfMemory


@contextmanager
def naming_out_of_memory(advice: str) -> Iterator[None]:
    """Turn torch's error into an ``OutOfMemory`` failure with ``advice``."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        first_line = str(error).splitlines()[0]
        raise OutOfMemory(f"a GPU ran out of memory: {advice} ({first_line})") from None
