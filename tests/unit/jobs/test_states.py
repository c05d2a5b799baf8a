"""The table of legal transitions, read as rules."""

import pytest

from vicreg_platform.jobs.states import ON_CLUSTER, TERMINAL, TRANSITIONS, JobState, StopCause


def test_three_states_are_final() -> None:
    assert {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED} == TERMINAL


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_nothing_leaves_a_final_state(state: JobState) -> None:
    assert not any(after in TRANSITIONS[state] for after in JobState)


@pytest.mark.parametrize("state", sorted(set(JobState) - TERMINAL - {JobState.UNKNOWN}))
def test_every_other_state_leads_to_an_end(state: JobState) -> None:
    reached, frontier = {state}, [state]
    while frontier:
        before = frontier.pop()
        fresh = {after for after in JobState if after in TRANSITIONS[before]} - reached
        reached |= fresh
        frontier += fresh
    assert JobState.CANCELLED in reached


def test_a_job_in_a_state_of_a_newer_version_is_left_alone() -> None:
    assert JobState.read("hibernating") is JobState.UNKNOWN
    assert all(JobState.read(state.value) is state for state in JobState)
    assert not any(JobState.UNKNOWN in after for after in TRANSITIONS.values())
    assert TRANSITIONS[JobState.UNKNOWN] == frozenset()


def test_only_a_job_on_the_cluster_can_succeed() -> None:
    before = {state for state in JobState if JobState.SUCCEEDED in TRANSITIONS[state]}
    assert before == ON_CLUSTER


@pytest.mark.parametrize("cause", list(StopCause))
def test_a_stopping_job_may_become_what_it_is_stopped_for(cause: StopCause) -> None:
    assert cause.next_state in TRANSITIONS[JobState.STOPPING]


def test_only_its_owner_resumes_a_paused_job() -> None:
    assert {JobState.WAITING, JobState.FAILED, JobState.CANCELLED} == TRANSITIONS[JobState.PAUSED]
