"""The benchmark of starts runs; of its figures, those that no noise of a machine can turn hold."""

from __future__ import annotations

from tests.benchmarks.startup import Waits, warm_and_cold
from tests.e2e.conftest import Running


def test_a_platform_that_is_up_is_sooner_at_the_first_step_than_bare_ray(running: Running) -> None:
    waits = Waits(running.platform, running.client)
    waits.starts()
    seconds = {name: times[0] for name, times in waits.waits.items()}
    assert seconds["two workers: POST to first step"] < seconds.pop(
        "bare Ray, two workers: submission to first step"
    )
    assert min(seconds.values()) > 0.0
    first, *_, last = waits.phases
    assert (first, last) == ("submitted", "archived")
    # After the others: the first driver of a platform waits for the warm process.
    for name, (warm, cold) in warm_and_cold(running.platform, rounds=1).items():
        assert warm < cold, name
