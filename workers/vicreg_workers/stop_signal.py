"""How workers save their state when their driver is told to stop (SIGTERM).

The driver writes a mark into the job's folder, which every worker reaches; the first worker looks
for it every second. Ray sends SIGKILL ``RAY_JOB_STOP_WAIT_TIME_S`` seconds after SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vicreg_platform.contract.failure_class import FailureClass
from vicreg_workers.storage import Folder

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Time between two looks for the mark."""
TRAINING = "training"
STOP = "stop"


def on_sigterm(react: Callable[[], None]) -> None:
    """Call ``react`` in a thread at the first SIGTERM. For a driver's main thread."""
    told = threading.Event()

    def wait() -> None:
        told.wait()
        react()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())


class StopSignal:
    """The marks of one attempt: ``attempt-<n>/training`` and ``attempt-<n>/stop``.

    Args:
        storage: a path or an fsspec URL.
        job_id: the job or trial.
        attempt: the attempt's number.
    """

    def __init__(self, storage: str, job_id: str, attempt: int) -> None:
        self._folder = Folder.of_job(storage, job_id) / f"attempt-{attempt}"
        self._requested = threading.Event()
        self._ended = threading.Event()

    def on_sigterm(self) -> None:
        """From now on, SIGTERM asks the workers to save and stop. For the driver's main thread.

        If no worker trains yet, there is nothing to save, and the driver exits at once.
        """

        def pass_on() -> None:
            if not self.is_training():
                os._exit(FailureClass.INFRASTRUCTURE.exit_code)
            logger.warning("told to stop: the workers save their state")
            self.request()

        on_sigterm(pass_on)

    def is_training(self) -> bool:
        """Whether there is a state to save. For the driver."""
        return self._folder.holds(TRAINING)

    def training(self) -> None:
        """Mark that there is a state to save. For a worker."""
        self._folder.write(TRAINING)

    def request(self) -> None:
        """Ask the workers to save their state and stop. For the driver."""
        self._folder.write(STOP)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look for the request meanwhile, once a second. For a worker.

        A thread of its own does it: a storage that is slow or unreachable delays no step.
        """
        watch = threading.Thread(target=self._watch, name="stop signal", daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._ended.set()

    def requested(self) -> bool:
        """Whether a stop has been requested, by the last look for it."""
        return self._requested.is_set()

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                if self._folder.holds(STOP):
                    self._requested.set()
                    return
            except Exception as error:  # whatever the storage's library raises
                logger.warning("cannot look for a request to stop in %s: %s", self._folder, error)
            self._ended.wait(LOOK_SECONDS)

    def clear(self) -> None:
        """Remove the marks. For the driver, when the attempt has ended."""
        self._folder.remove()
