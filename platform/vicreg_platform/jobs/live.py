"""What Prometheus is told of the jobs in the database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vicreg_platform.database import Database
from vicreg_platform.errors import DatabaseUnavailable
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.service import utc_now
from vicreg_platform.jobs.states import TERMINAL, JobState


class LiveJobs(Collector):
    """Jobs that have not ended, by kind and state, counted when Prometheus asks.

    Args:
        database: where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See ``prometheus_client``; nothing where the database does not answer."""
        jobs = GaugeMetricFamily(
            "vicreg_jobs", "Jobs that have not ended.", labels=["kind", "state"]
        )
        oldest = GaugeMetricFamily(
            "vicreg_oldest_queued_seconds", "Age of the oldest queued job; 0 where there is none."
        )
        now = utc_now()
        try:
            with self._database.read() as session:
                counts = JobRepository(session, now).live_counts()
                since = JobRepository(session, now).oldest_queued()
        except DatabaseUnavailable:
            return
        for kind in ("pretrain", "evaluate", "sweep"):
            for state in JobState:
                if state not in TERMINAL:
                    jobs.add_metric([kind, state.value], counts.get((kind, state.value), 0))
        age = timedelta(0) if since is None else now - since
        oldest.add_metric([], age.total_seconds())
        yield jobs
        yield oldest
