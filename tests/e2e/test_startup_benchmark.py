"""The benchmark of starts runs, and a warm start saves time."""

from tests.benchmarks.startup import JOBS, measure
from tests.e2e.conftest import Running


def test_warm_and_cold_starts_are_measured(running: Running) -> None:
    medians = measure(running.platform, rounds=1)
    assert medians.keys() == JOBS.keys()
