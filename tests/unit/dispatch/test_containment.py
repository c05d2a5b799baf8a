"""What goes wrong with one job, one run or one neighbour stops nothing else."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.integration.conftest import wait_until
from tests.unit.dispatch.test_loop import World, started, world  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.dispatch import attempts, lease, loop
from vicreg_platform.dispatch.lease import LEASE_SECONDS, lease_is_held
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.dispatch.queue import BATCH
from vicreg_platform.errors import ClusterUnavailable, InvalidSpec, LeaseLost
from vicreg_platform.jobs.states import JobState
from vicreg_platform.needs import Bundle


def test_a_log_that_ray_cannot_give_costs_its_job_the_reason_alone(world: World) -> None:  # noqa: F811
    job, submission = started(world)
    world.cluster.without_log.add(submission)
    world.ends(submission, 64)
    other = world.submit()
    world.round()
    assert world.job(job).reason == "the driver exited with code 64; see its log"
    assert world.job(other).state is JobState.STARTING


def test_a_log_that_stays_away_is_given_up_after_ten_minutes(world: World) -> None:  # noqa: F811
    job, submission = started(world)
    late, other = started(world)
    for lost in (submission, other):
        world.cluster.without_log.add(lost)
        world.ends(lost, 0)
    world.round()
    world.cluster.without_log.discard(other)
    world.cluster.logs[other] = "epoch 1\n"
    world.round(after_seconds=300)
    assert world.tracking.logs == {(f"run-{late}", 1): "epoch 1\n"}
    world.round(after_seconds=301)
    assert world.tracking.logs[f"run-{job}", 1] == "the log was lost: its node is gone\n"


def test_a_run_whose_artifacts_cannot_be_written_holds_up_no_other(world: World) -> None:  # noqa: F811
    first, one = started(world)
    second, two = started(world)
    world.tracking.unwritable.add(f"run-{first}")
    world.ends(one, 0)
    world.ends(two, 0)
    world.round()
    assert world.tracking.runs == {f"run-{first}": "FINISHED", f"run-{second}": "FINISHED"}
    assert (f"run-{second}", 1) in world.tracking.logs
    world.tracking.unwritable.clear()
    world.round(after_seconds=3)
    assert (f"run-{first}", 1) in world.tracking.logs


@pytest.mark.parametrize("kind", ["too large", "unreadable"])
def test_many_jobs_that_cannot_start_do_not_stop_the_queue(world: World, kind: str) -> None:  # noqa: F811
    many = {"resources": {"cpus_per_worker": 64}} if kind == "too large" else {}
    for _ in range(BATCH + 1):
        world.submit(**many)
    if kind == "unreadable":
        with world.database.write() as session:
            session.execute(text("UPDATE jobs SET spec = '{}', workers = NULL"))
    job = world.submit()
    world.round()
    assert world.job(job).state is JobState.STARTING


def test_a_submission_that_appears_late_is_stopped(world: World) -> None:  # noqa: F811
    job = world.submit()
    submit = world.cluster.submit
    late: list[Any] = []

    def time_out(submission: Any) -> None:
        late.append(submission)
        raise ClusterUnavailable("no answer within 15 s")

    world.cluster.submit = time_out  # type: ignore[method-assign]
    with pytest.raises(ClusterUnavailable):
        world.round()
    world.jobs.cancel(job)
    world.round()
    assert world.job(job).state is JobState.CANCELLED
    submit(late[0])  # Ray had only been slow
    world.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    world.cluster.set("another-platforms", SubmissionState.RUNNING)
    world.round()
    assert world.cluster.stops == [f"{job}-1"]


def test_a_dispatcher_frozen_in_a_round_changes_nothing_when_it_continues(
    world: World,  # noqa: F811
) -> None:
    job = world.submit()
    world.round()
    second = world.new_dispatcher()
    submissions = world.cluster.submissions

    def freeze() -> Any:
        known = submissions()
        del world.cluster.submissions
        world.moment += timedelta(seconds=LEASE_SECONDS + 1)
        assert second.round()  # another dispatcher takes over meanwhile
        world.jobs.cancel(job)
        return known | {f"{job}-1": known[f"{job}-1"]}

    world.cluster.set(f"{job}-1", SubmissionState.RUNNING)
    world.cluster.submissions = freeze  # type: ignore[method-assign]
    before = world.states(job)
    with pytest.raises(LeaseLost):
        world.round()
    assert world.states(job) == [*before, "running", "stopping"]  # the second's, and the user's


def test_the_lease_that_was_lost_and_taken_again_ends_the_old_round(world: World) -> None:  # noqa: F811
    job = world.submit()
    world.round()
    second = world.new_dispatcher()
    submissions = world.cluster.submissions

    def freeze() -> Any:
        del world.cluster.submissions
        world.moment += timedelta(seconds=LEASE_SECONDS + 1)
        assert second.round()
        world.moment += timedelta(seconds=LEASE_SECONDS + 1)
        world.dispatcher._lease.hold()  # its heartbeat, which continues too
        return submissions()

    world.cluster.set(f"{job}-1", SubmissionState.FAILED, 64)
    world.cluster.submissions = freeze  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        world.round()
    assert world.job(job).state is JobState.FAILED  # as the second decided
    assert [event.attempt for event in world.jobs.events(job, 100, None).items].count(1) == 1


def test_a_cluster_that_has_lost_nodes_is_waited_for(world: World) -> None:  # noqa: F811
    whole = (Bundle(4, 0), Bundle(4, 0))
    world.cluster.nodes = whole
    world.submit()
    world.round()
    large = world.submit(resources={"workers": 2, "cpus_per_worker": 4})
    for left in ((Bundle(4, 0),), ()):
        world.cluster.nodes = left
        for _ in range(3):
            world.round(after_seconds=3600)
        assert world.job(large).state is JobState.QUEUED
        assert "waits for a node to come back" in (world.job(large).reason or "")
    # Also by a dispatcher that starts meanwhile: it has never seen the lost node.
    world.dispatcher = world.new_dispatcher()
    for _ in range(3):
        world.round(after_seconds=3600)
    assert world.job(large).state is JobState.QUEUED
    assert "and had 2 node(s) with 8 CPUs" in (world.job(large).reason or "")
    world.cluster.nodes = whole
    world.ends(world.all_jobs()[-1].id + "-1", 0)
    world.round()
    assert world.job(large).state is JobState.STARTING


def test_a_cluster_that_never_had_a_node_fails_no_job(world: World) -> None:  # noqa: F811
    world.cluster.nodes = ()
    job = world.submit()
    for _ in range(3):
        world.round(after_seconds=3600)
    assert world.job(job).state is JobState.QUEUED


def test_a_dispatcher_that_hangs_leaves_its_lease(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(loop, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    hangs = threading.Event()
    dispatcher = Dispatcher(world.database, world.cluster, world.tracking, world.settings)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: lease_is_held(world.database))
        assert dispatcher.alive()
        world.cluster.submissions = hangs.wait  # type: ignore[assignment]
        wait_until(lambda: not lease_is_held(world.database))
        assert not dispatcher.alive()
    finally:
        hangs.set()
        stop.set()
        thread.join()


def large_sweep() -> dict[str, Any]:
    values = [0.1 + number / 3e6 for number in range(1000)]
    paths = [f"method.{name}" for name in ("variance", "covariance", "invariance")]
    paths += ["optimizer.base_lr", "optimizer.weight_decay", "optimizer.momentum"]
    base = {"kind": "pretrain", "data": {"source": "digits"}}
    return {"kind": "sweep", "base": base, "space": {path: {"choice": values} for path in paths}}


def test_a_spec_that_no_command_line_holds_is_refused(world: World) -> None:  # noqa: F811
    with pytest.raises(InvalidSpec, match="at most 100 kB can be started"):
        world.jobs.submit(large_sweep())


def test_a_stored_spec_that_no_command_line_holds_fails_at_once(
    world: World,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = world.submit()
    monkeypatch.setattr(attempts, "MAX_COMMAND_BYTES", 1000)
    world.round()
    ended = world.job(job)
    assert (ended.state, ended.failure, len(ended.attempts)) == (JobState.FAILED, "user", 1)
    assert "command line" in (ended.reason or "")
    assert world.cluster.submitted == {}


def test_a_retry_of_a_retry_knows_them_all(world: World) -> None:  # noqa: F811
    first, submission = started(world)
    world.ends(submission, 65, "the loss is nan")
    world.round()
    second = world.jobs.retry(first).id
    world.jobs.cancel(second)  # it never ran
    third = world.jobs.retry(second).id
    world.round()
    argument = world.cluster.submitted[f"{third}-1"].arguments[-1]
    assert Assignment.model_validate_json(argument).resume_from == (second, first)


def test_room_is_counted_by_node(world: World) -> None:  # noqa: F811
    world.cluster.nodes = (Bundle(4, 0), Bundle(4, 0))
    for _ in range(2):
        world.submit(resources={"workers": 1, "cpus_per_worker": 3})
    world.round()
    assert len(world.cluster.submitted) == 2  # one on each node: 2 CPUs are left, not on one
    large = world.submit(resources={"workers": 1, "cpus_per_worker": 2})
    world.round()
    assert world.job(large).state is JobState.QUEUED
    world.ends(next(iter(world.cluster.submitted)), 0)
    world.round()
    assert world.job(large).state is JobState.STARTING
