"""What becomes of a job whose attempt has ended: a table."""

from __future__ import annotations

import pytest

from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.dispatch.attempts import MAX_BACKOFF_SECONDS, Ending, ending
from vicreg_platform.jobs.states import TRANSITIONS, JobState

RUNNING, STOPPING = JobState.RUNNING, JobState.STOPPING
INFRASTRUCTURE = FailureClass.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("state", "stop_failure", "failure", "number", "expected"),
    [
        # It was left alone.
        (RUNNING, None, None, 1, Ending(JobState.SUCCEEDED, "succeeded")),
        (RUNNING, None, FailureClass.USER, 1,
         Ending(JobState.FAILED, "user", "why", failure="user")),
        (RUNNING, None, FailureClass.DIVERGED, 1,
         Ending(JobState.FAILED, "diverged", "why", failure="diverged")),
        (RUNNING, None, FailureClass.OUT_OF_MEMORY, 2,
         Ending(JobState.FAILED, "out_of_memory", "why", failure="out_of_memory")),
        # Infrastructure is retried, ever later, until the attempts run out.
        (RUNNING, None, INFRASTRUCTURE, 1,
         Ending(JobState.QUEUED, "infrastructure", "why", wait=10.0)),
        (JobState.STARTING, None, INFRASTRUCTURE, 2,
         Ending(JobState.QUEUED, "infrastructure", "why", wait=20.0)),
        (RUNNING, None, INFRASTRUCTURE, 8,
         Ending(JobState.QUEUED, "infrastructure", "why", wait=MAX_BACKOFF_SECONDS)),
        (RUNNING, None, INFRASTRUCTURE, 9,
         Ending(JobState.FAILED, "infrastructure", "why", failure="infrastructure")),
        # It was cancelled: however it ended, it is cancelled.
        (STOPPING, None, None, 1, Ending(JobState.CANCELLED, "cancelled", "stop")),
        (STOPPING, None, INFRASTRUCTURE, 1, Ending(JobState.CANCELLED, "cancelled", "stop")),
        (STOPPING, None, FailureClass.USER, 1, Ending(JobState.CANCELLED, "cancelled", "stop")),
        # It was out of time: however it ended, it has failed.
        (STOPPING, "timeout", None, 1,
         Ending(JobState.FAILED, "timeout", "stop", failure="timeout")),
        (STOPPING, "timeout", INFRASTRUCTURE, 1,
         Ending(JobState.FAILED, "timeout", "stop", failure="timeout")),
    ],
)  # fmt: skip
def test_the_ending(
    state: JobState,
    stop_failure: str | None,
    failure: FailureClass | None,
    number: int,
    expected: Ending,
) -> None:
    found = ending(state, stop_failure, "stop", failure, "why", number, 9, backoff_seconds=10.0)
    assert found == expected
    assert found.state in TRANSITIONS[state]
