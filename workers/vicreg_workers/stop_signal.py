"""How a driver that is told to end (SIGTERM) has its workers save their state first.

The driver leaves a mark in the job's storage, which every worker reaches; the first worker looks
for it between steps. Ray gives a job ``RAY_JOB_STOP_WAIT_TIME_S`` seconds from SIGTERM to SIGKILL.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import fsspec

from vicreg_platform.contract.assignment import FailureClass

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Stop:
    """The marks of one attempt.

    Args:
        storage: a path or an fsspec URL.
        job_id: whose attempt.
        attempt: its number.
    """

    def __init__(self, storage: str, job_id: str, attempt: int) -> None:
        self._fs, root = fsspec.core.url_to_fs(storage)
        self._folder = f"{root.rstrip('/')}/{job_id}/attempt-{attempt}"
        self._looked = 0.0
        self._requested = False

    def on_sigterm(self) -> None:
        """In the driver's main thread: from now on SIGTERM asks the workers to save and end.

        Where none of them trains yet, there is nothing to save, and the driver ends at once.
        """
        told = threading.Event()

        def pass_on() -> None:
            told.wait()
            if not self._fs.exists(self._mark("training")):
                os._exit(FailureClass.INFRASTRUCTURE.exit_code)
            logger.warning("told to end: the workers save their state")
            self._fs.touch(self._mark("stop"))

        threading.Thread(target=pass_on, daemon=True).start()
        signal.signal(signal.SIGTERM, lambda number, frame: told.set())

    def training(self) -> None:
        """In a worker: there is a state to save from now on."""
        self._fs.makedirs(self._folder, exist_ok=True)
        self._fs.touch(self._mark("training"))

    def requested(self) -> bool:
        """In a worker: whether the driver has been told to end. Looks once a second at most."""
        now = time.monotonic()
        if not self._requested and now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._fs.invalidate_cache()
            self._requested = self._fs.exists(self._mark("stop"))
        return self._requested

    def clear(self) -> None:
        """In the driver, when the attempt has ended."""
        if self._fs.exists(self._folder):
            self._fs.rm(self._folder, recursive=True)

    def _mark(self, name: str) -> str:
        return f"{self._folder}/{name}"
