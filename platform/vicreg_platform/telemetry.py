"""What Prometheus is told of this process: of dispatching, and of the calls to Ray and MLflow."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

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
ROUNDS = Counter("vicreg_dispatch_rounds", "Rounds of the dispatcher.", ["outcome"])
ROUND_SECONDS = Histogram(
    "vicreg_dispatch_round_seconds", "How long a round took.", buckets=_CALL_SECONDS
)
LAST_ROUND = Gauge("vicreg_dispatch_last_round_timestamp", "When the last whole round ended.")
CALL_SECONDS = Histogram(
    "vicreg_call_seconds", "Calls to Ray and MLflow.", ["service"], buckets=_CALL_SECONDS
)
CALL_FAILURES = Counter("vicreg_call_failures", "Calls that got no answer.", ["service"])
