"""The reconcile loops: compare the wanted state with the actual state, and act on the difference.

Three loops run side by side, so that a neighbour that hangs delays only what needs it: *clock*
needs the database alone, *cluster* also Ray, *runs* also MLflow. A fourth, *webhook*, runs if there
is one to be told. They keep nothing in memory that matters: the dispatcher can be killed at any
line and restarted, and a second one on the same database waits until the first one's lease ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vicreg_platform import changes
from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.cluster import Cluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.attempts import Attempts
from vicreg_platform.dispatch.closing import Closing
from vicreg_platform.dispatch.lease import HEARTBEAT_SECONDS, Lease
from vicreg_platform.dispatch.queue import Queue
from vicreg_platform.dispatch.readings import Readings
from vicreg_platform.dispatch.run_labels import RunLabels
from vicreg_platform.dispatch.webhook import Webhook
from vicreg_platform.errors import LeaseLost, Unavailable
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.service import JobService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.telemetry import LAST_ROUND, ROUND_SECONDS, ROUNDS
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""Between two rounds, if no job is changed meanwhile."""
SHORTEST_PAUSE_SECONDS = 0.1
STALL_SECONDS = 120.0
"""A loop whose round takes longer hangs: the lease is left to another dispatcher."""


@dataclass(frozen=True)
class Loop:
    """What is done again and again, in the order of the steps."""

    name: str
    steps: tuple[Callable[[], None], ...]
    vital: bool = True
    """Whether the dispatcher counts as stalled while this loop hangs."""


class Dispatcher:
    """Moves jobs between the database and the cluster.

    Args:
        database: holds the wanted state.
        cluster: runs the attempts.
        tracking: where runs are read and closed.
        settings: what drivers are told, and where the webhook is.
        now: the clock.
    """

    def __init__(
        self,
        database: Database,
        cluster: Cluster,
        tracking: Tracking,
        settings: Settings,
        now: Clock = utc_now,
    ) -> None:
        self._database = database
        self._lease = Lease(database, now)
        fenced = database.fenced(self._lease.check)
        # What its jobs read is checked by the workers: a disk that hangs must not stop the clock.
        service = JobService(fenced, None, settings.mlflow_public_url, now)
        schedules = ScheduleService(fenced, service, now)
        jobs = Jobs(fenced, now)
        readings = Readings(jobs, tracking, now)
        labels = RunLabels(jobs, tracking, now)
        closing = Closing(jobs, cluster, tracking, readings, service, now)
        attempts = Attempts(fenced, cluster, settings, now, self._note_change)
        queue = Queue(fenced, cluster, attempts, settings, now)
        self._loops: tuple[Loop, ...] = (
            Loop("clock", (schedules.tick, queue.fail_overdue)),
            Loop("cluster", (attempts.follow, queue.release, queue.start)),
            Loop("runs", (readings.follow, labels.follow, closing.close), vital=False),
            # Uploads of logs may take long, and nobody waits for them.
            Loop("logs", (closing.archive,), vital=False),
        )
        if settings.webhook_url is not None:
            webhook = Webhook(fenced, settings.webhook_url, settings.webhook_secret, now)
            self._loops += (Loop("webhook", (webhook.tell,), vital=False),)
        self._changed = {loop.name: threading.Event() for loop in self._loops}
        self._ended = dict.fromkeys((loop.name for loop in self._loops), time.monotonic())

    def run(self, stop: threading.Event) -> None:
        """Run all loops until ``stop`` is set."""
        threads = [
            threading.Thread(target=self._run_loop, args=(loop, stop), name=loop.name, daemon=True)
            for loop in self._loops
        ]
        watch = threading.Thread(
            target=changes.watch,
            args=(self._database, stop, self._note_change),
            name="changes",
            daemon=True,
        )
        self._beat()
        for thread in (*threads, watch):
            thread.start()
        while not stop.wait(HEARTBEAT_SECONDS):
            if self.alive():
                self._beat()
        self._note_change()
        # A loop that waits for a neighbour that hangs may be left: it can write nothing more.
        for thread in threads:
            thread.join(PAUSE_SECONDS)
        self._lease.give_up()

    def round(self) -> bool:
        """Run each loop once, one after the other.

        Returns:
            False if another dispatcher holds the lease, and nothing was done.

        Raises:
            Unavailable: a neighbour is unreachable; what was done until then stays done.
        """
        if not self._lease.hold():
            return False
        for loop in self._loops:
            self._run_once(loop)
        return True

    def alive(self) -> bool:
        """Whether every vital loop has ended a round lately, or had none to begin."""
        ended = [self._ended[loop.name] for loop in self._loops if loop.vital]
        return time.monotonic() - min(ended) < STALL_SECONDS

    def _beat(self) -> None:
        try:
            self._lease.hold()
        except Unavailable as error:
            logger.warning("the lease cannot be renewed: %s", error)
        except Exception:
            logger.exception("the lease cannot be renewed")

    def _note_change(self) -> None:
        for changed in self._changed.values():
            changed.set()

    def _run_loop(self, loop: Loop, stop: threading.Event) -> None:
        complaint = ""
        while not stop.is_set():
            self._changed[loop.name].clear()
            if self._lease.held():
                outcome, complaint = self._try_once(loop, complaint)
                ROUNDS.labels(loop.name, outcome).inc()
            self._ended[loop.name] = time.monotonic()
            stop.wait(SHORTEST_PAUSE_SECONDS)
            self._changed[loop.name].wait(PAUSE_SECONDS - SHORTEST_PAUSE_SECONDS)

    def _try_once(self, loop: Loop, complaint: str) -> tuple[str, str]:
        """Run a loop once; returns the outcome, and what was complained of."""
        try:
            with ROUND_SECONDS.labels(loop.name).time():
                self._run_once(loop)
            LAST_ROUND.labels(loop.name).set_to_current_time()
            return "whole", ""
        except Unavailable as error:
            if str(error) != complaint:
                logger.warning("%s; retrying", error)
            return "unavailable", str(error)
        except LeaseLost as error:
            logger.warning("%s", error)
            return "overtaken", ""
        except Exception:
            logger.exception("a round of the %s failed; retrying", loop.name)
            return "failed", ""

    def _run_once(self, loop: Loop) -> None:
        with self._lease.round():
            for step in loop.steps:
                step()
