"""The Prometheus metrics of the platform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vicreg_platform.clock import utc_now
from vicreg_platform.errors import DatabaseUnavailable

_SECONDS = (1, 5, 15, 30, 60, 120, 300, 900, 3600, 4 * 3600, 24 * 3600)
_CALL_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15)

QUEUE_WAIT = Histogram(
    "vicreg_queue_wait_seconds", "From a job's POST to its first attempt.", buckets=_SECONDS
)
FIRST_STEP = Histogram(
    "vicreg_first_step_seconds",
    "From a pretraining's POST to its first training step.",
    buckets=_SECONDS,
)
ATTEMPTS = Counter("vicreg_attempts_ended", "Attempts that have ended.", ["kind", "outcome"])
ROUNDS = Counter("vicreg_dispatch_rounds", "Rounds of the dispatcher's loops.", ["loop", "outcome"])
ROUND_SECONDS = Histogram(
    "vicreg_dispatch_round_seconds", "How long a round took.", ["loop"], buckets=_CALL_SECONDS
)
LAST_ROUND = Gauge(
    "vicreg_dispatch_last_round_timestamp", "When the last complete round ended.", ["loop"]
)
CALL_SECONDS = Histogram(
    "vicreg_call_seconds", "Calls to Ray and MLflow.", ["service"], buckets=_CALL_SECONDS
)
CALL_FAILURES = Counter("vicreg_call_failures", "Calls without an answer.", ["service"])
DELIVERIES = Counter("vicreg_webhook_deliveries", "Events for the webhook.", ["outcome"])


@dataclass(frozen=True)
class Unfinished:
    """How many jobs are unfinished."""

    counts: dict[tuple[str, str], int]
    """By kind and state, zeros included."""
    oldest_queued: datetime | None
    """When the oldest queued job was submitted."""


class UnfinishedJobs(Collector):
    """Unfinished jobs by kind and state, counted when Prometheus asks.

    Args:
        count: counts them.
    """

    def __init__(self, count: Callable[[], Unfinished]) -> None:
        self._count = count

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See ``prometheus_client``; nothing if the database is unreachable."""
        jobs = GaugeMetricFamily(
            "vicreg_jobs", "Jobs that have not ended.", labels=["kind", "state"]
        )
        oldest = GaugeMetricFamily(
            "vicreg_oldest_queued_seconds", "Age of the oldest queued job; 0 if there is none."
        )
        try:
            unfinished = self._count()
        except DatabaseUnavailable:
            return
        for labels, count in unfinished.counts.items():
            jobs.add_metric(labels, count)
        since = unfinished.oldest_queued
        age = timedelta(0) if since is None else utc_now() - since
        oldest.add_metric([], age.total_seconds())
        yield jobs
        yield oldest
