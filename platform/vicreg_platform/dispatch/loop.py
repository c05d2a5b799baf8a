"""The reconcile loop: compares the wanted state with the actual state, and acts on the difference.

It keeps nothing in memory that matters: it can be killed at any line and restarted, and a second
dispatcher on the same database waits until the first one's lease ends.
"""

from __future__ import annotations

import logging
import threading

from vicreg_platform.clock import Clock, utc_now
from vicreg_platform.cluster import Cluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.attempts import Attempts
from vicreg_platform.dispatch.closing import Closing
from vicreg_platform.dispatch.lease import Lease
from vicreg_platform.dispatch.queue import Queue
from vicreg_platform.dispatch.readings import Readings
from vicreg_platform.errors import Unavailable
from vicreg_platform.jobs.repository import Jobs
from vicreg_platform.jobs.service import JobService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.telemetry import LAST_ROUND, ROUND_SECONDS, ROUNDS
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0


class Dispatcher:
    """Moves jobs between the database and the cluster.

    Args:
        database: holds the wanted state.
        cluster: runs the attempts.
        tracking: where runs are created, read and closed.
        settings: what drivers are told.
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
        service = JobService(database, settings.data_root, settings.mlflow_public_url, now)
        jobs = Jobs(database, now)
        readings = Readings(jobs, tracking, now)
        self._lease = Lease(database, now)
        self._schedules = ScheduleService(database, service, now)
        self._attempts = Attempts(jobs, cluster, readings, settings, now)
        self._closing = Closing(jobs, cluster, tracking, readings, service)
        self._queue = Queue(jobs, cluster, tracking, self._attempts, now)

    def run(self, stop: threading.Event) -> None:
        """Run rounds until ``stop`` is set."""
        complaint = ""
        while not stop.is_set():
            try:
                with ROUND_SECONDS.time():
                    at_work = self.round()
                complaint = ""
                if at_work:
                    ROUNDS.labels("whole").inc()
                    LAST_ROUND.set_to_current_time()
            except Unavailable as error:
                ROUNDS.labels("unavailable").inc()
                if str(error) != complaint:
                    logger.warning("%s; retrying", error)
                complaint = str(error)
            except Exception:
                ROUNDS.labels("failed").inc()
                logger.exception("a round failed; retrying")
            stop.wait(PAUSE_SECONDS)
        self._lease.give_up()

    def round(self) -> bool:
        """Look once at everything that is unfinished, and act.

        Returns:
            False if another dispatcher holds the lease, and nothing was done.

        Raises:
            Unavailable: a neighbour is unreachable; what was done until then stays done.
        """
        if not self._lease.hold():
            return False
        # What needs the database alone comes first: it works while Ray or MLflow is unreachable.
        self._schedules.tick()
        self._queue.fail_overdue()
        self._attempts.follow()
        self._closing.close()
        self._queue.release()
        self._queue.start()
        return True
