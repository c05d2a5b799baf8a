"""What becomes of a job whose attempt has ended: a table."""

from __future__ import annotations

import pytest

from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.dispatch.attempts import MAX_BACKOFF_SECONDS, Ending, ending
from vicreg_platform.jobs.states import TRANSITIONS, JobState, StopCause

INFRASTRUCTURE = FailureClass.INFRASTRUCTURE


@pytest.mark.parametrize(
    ("cause", "failure", "failed", "expected"),
    [
        # It was left alone.
        (None, None, 1, Ending(JobState.SUCCEEDED, "succeeded")),
        (None, FailureClass.USER, 1, Ending(JobState.FAILED, "user", "why", failure="user")),
        (None, FailureClass.DIVERGED, 1,
         Ending(JobState.FAILED, "diverged", "why", failure="diverged")),
        (None, FailureClass.OUT_OF_MEMORY, 2,
         Ending(JobState.FAILED, "out_of_memory", "why", failure="out_of_memory")),
        # Infrastructure is retried, ever later, until the attempts run out.
        (None, INFRASTRUCTURE, 1, Ending(JobState.QUEUED, "infrastructure", "why", wait=10.0)),
        (None, INFRASTRUCTURE, 2, Ending(JobState.QUEUED, "infrastructure", "why", wait=20.0)),
        (None, INFRASTRUCTURE, 8,
         Ending(JobState.QUEUED, "infrastructure", "why", wait=MAX_BACKOFF_SECONDS)),
        (None, INFRASTRUCTURE, 9,
         Ending(JobState.FAILED, "infrastructure", "why", failure="infrastructure")),
        # It was cancelled: however it ended, it is cancelled.
        (StopCause.CANCELLED, None, 1, Ending(JobState.CANCELLED, "cancelled", "stop")),
        (StopCause.CANCELLED, INFRASTRUCTURE, 1, Ending(JobState.CANCELLED, "cancelled", "stop")),
        (StopCause.CANCELLED, FailureClass.USER, 1,
         Ending(JobState.CANCELLED, "cancelled", "stop")),
        # It was out of time: however it ended, it has failed.
        (StopCause.TIMEOUT, None, 1, Ending(JobState.FAILED, "timeout", "stop", failure="timeout")),
        (StopCause.TIMEOUT, INFRASTRUCTURE, 1,
         Ending(JobState.FAILED, "timeout", "stop", failure="timeout")),
        # It made room, or was paused: that is no failure, however often it happens.
        (StopCause.PREEMPTED, INFRASTRUCTURE, 9, Ending(JobState.QUEUED, "preempted", "stop")),
        (StopCause.RESIZED, INFRASTRUCTURE, 9, Ending(JobState.QUEUED, "resized", "stop")),
        (StopCause.PAUSED, INFRASTRUCTURE, 9, Ending(JobState.PAUSED, "paused", "stop")),
        # It ended by itself before it had stopped.
        (StopCause.PREEMPTED, None, 1, Ending(JobState.SUCCEEDED, "succeeded")),
        (StopCause.PAUSED, FailureClass.DIVERGED, 1,
         Ending(JobState.FAILED, "diverged", "why", failure="diverged")),
    ],
)  # fmt: skip
def test_the_ending(
    cause: StopCause | None, failure: FailureClass | None, failed: int, expected: Ending
) -> None:
    found = ending(cause, "stop", failure, "why", failed, 9, backoff_seconds=10.0)
    assert found == expected
    state = JobState.RUNNING if cause is None else JobState.STOPPING
    assert found.state in TRANSITIONS[state]
