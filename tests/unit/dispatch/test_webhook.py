"""What a receiver of the webhook is told, over a socket."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.databases import empty_database
from tests.integration.conftest import wait_until
from tests.unit.dispatch.test_loop import World, started, world  # noqa: F401
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.contract.progress import Finding, Progress
from vicreg_platform.database import Database
from vicreg_platform.dispatch import webhook
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.states import JobState

SECRET = "of both"
WORSE = Finding(name="worse_than_start", text="since step 3 knn/top1 is below <0.9>")
COLLAPSED = Finding(name="collapsed", text="the embedding is too narrow")


class Receiver:
    """An HTTP server that records what it is sent, and answers as the test says."""

    def __init__(self) -> None:
        self.status = 204
        self.sent: list[dict[str, Any]] = []
        """What it has answered with 2xx."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.asked = 0
        self.answers = threading.Event()
        """Cleared while it hangs."""
        self.answers.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked += 1
                receiver.answers.wait(60)
                if receiver.status < 300:
                    receiver.headers.append(dict(self.headers))
                    receiver.bodies.append(body)
                    receiver.sent.append(json.loads(body))
                self.send_response(receiver.status)
                self.send_header("Location", f"{receiver.url}elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def told(self) -> list[tuple[str, str]]:
        return [(each["event"], each["job"]["id"]) for each in self.sent]

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def told(world: World, receiver: Receiver) -> World:  # noqa: F811
    """A world with a webhook, before its first round."""
    secrets = {"webhook_url": receiver.url, "webhook_secret": SECRET}
    world.settings = world.settings.model_copy(update=secrets)
    world.dispatcher = world.new_dispatcher()
    return world


def finds(world: World, job: str, *findings: Finding) -> None:  # noqa: F811
    """The training writes what is wrong with it, and the dispatcher reads it."""
    world.tracking.progress[f"run-{job}"] = Progress(
        epoch=1, epochs=9, step=len(world.tracking.progress), steps=9, images_per_second=1.0,
        eta_seconds=1.0, findings=findings,
    )  # fmt: skip
    world.round(after_seconds=1)
    world.round()


def cancelled(world: World) -> str:  # noqa: F811
    job = world.submit()
    world.jobs.cancel(job)
    return job


def test_the_end_of_a_job_is_told_once(told: World, receiver: Receiver) -> None:
    job, submission = started(told, name="digits")
    told.ends(submission, FailureClass.USER.exit_code, "no images in <data>")
    for _ in range(3):
        told.round(after_seconds=1)
    (sent,) = receiver.sent
    ended = told.jobs.events(job, 100, None).items[-1]
    assert sent == {
        "id": ended.id,
        "event": "failed",
        "at": ended.at.isoformat(),
        "job": {"id": job, "name": "digits", "kind": "pretrain", "owner": None, "state": "failed"},
        "finding": None,
        "message": "no images in <data>",
        "text": f"pretrain digits ({job}) has failed: no images in &lt;data&gt;",
    }
    signature = hmac.new(SECRET.encode(), receiver.bodies[0], hashlib.sha256).hexdigest()
    assert receiver.headers[0]["X-Vicreg-Signature"] == f"sha256={signature}"
    assert receiver.headers[0]["Content-Type"] == "application/json"


def test_success_and_cancellation_are_told_and_nothing_is_signed_without_a_secret(
    told: World, receiver: Receiver
) -> None:
    told.settings = told.settings.model_copy(update={"webhook_secret": None})
    told.dispatcher = told.new_dispatcher()
    job, submission = started(told)
    told.ends(submission, 0)
    told.round()
    other = cancelled(told)
    told.round()
    assert receiver.told() == [("succeeded", job), ("cancelled", other)]
    assert "X-Vicreg-Signature" not in receiver.headers[0]


def test_a_finding_is_told_when_it_is_new(told: World, receiver: Receiver) -> None:
    job, _ = started(told)
    finds(told, job)
    finds(told, job, WORSE)
    finds(told, job, WORSE.model_copy(update={"text": "since step 3, now at step 4"}))
    finds(told, job, WORSE, COLLAPSED)
    assert [(each["event"], each["finding"], each["message"]) for each in receiver.sent] == [
        ("finding", "worse_than_start", WORSE.text),
        ("finding", "collapsed", COLLAPSED.text),
    ]
    assert receiver.sent[0]["job"]["state"] == "running"
    assert receiver.sent[0]["text"].endswith(
        f"({job}) has the finding worse_than_start: since step 3 knn/top1 is below &lt;0.9&gt;"
    )
    # They are in the job's history, too.
    events = told.jobs.events(job, 100, None).items
    assert [event.message for event in events[-2:]] == [WORSE.text, COLLAPSED.text]
    assert told.states(job)[-3:] == ["running"] * 3
    # One that was withdrawn is new when it is found again.
    finds(told, job, COLLAPSED)
    finds(told, job, COLLAPSED, WORSE)
    assert [each["finding"] for each in receiver.sent[2:]] == ["worse_than_start"]


def test_findings_are_in_the_history_without_a_webhook(world: World) -> None:  # noqa: F811
    job, _ = started(world)
    finds(world, job, WORSE)
    assert world.jobs.events(job, 100, None).items[-1].message == WORSE.text


@pytest.mark.parametrize("status", [302, 404, 500])
def test_what_a_receiver_does_not_take_is_told_later_in_order(
    told: World, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vicreg_platform")
    told.round()
    receiver.status = status
    jobs = [cancelled(told) for _ in range(3)]
    told.round()
    assert receiver.asked == 1  # nothing is told before the first
    told.round(after_seconds=1)
    assert receiver.asked == 1  # and not yet again
    told.round(after_seconds=2)
    assert receiver.asked == 2
    receiver.status = 200
    told.round(after_seconds=300)
    assert receiver.told() == [("cancelled", job) for job in jobs]
    said = [record.message for record in caplog.records if "webhook" in record.message]
    assert said == [
        f"the webhook: the receiver answers {status} instead of 2xx; retrying",
        "the webhook takes events again",
    ]
    assert receiver.url not in caplog.text


def test_a_receiver_that_is_down_is_told_when_it_is_up(
    told: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    told.round()
    url = told.settings.webhook_url
    down = told.settings.model_copy(update={"webhook_url": "http://127.0.0.1:9/"})
    told.settings = down
    told.dispatcher = told.new_dispatcher()
    job = cancelled(told)
    told.round(after_seconds=60)  # the lease of the first has expired
    assert "the receiver does not answer (ConnectError" in caplog.text
    told.settings = down.model_copy(update={"webhook_url": url})
    told.dispatcher = told.new_dispatcher()
    told.round(after_seconds=60)
    assert receiver.told() == [("cancelled", job)]


def test_nothing_is_lost_or_told_twice_when_the_dispatcher_restarts(
    told: World, receiver: Receiver
) -> None:
    told.round()
    first = cancelled(told)
    told.round()
    second = cancelled(told)
    told.dispatcher = told.new_dispatcher()
    told.round(after_seconds=60)
    assert receiver.told() == [("cancelled", first), ("cancelled", second)]


def test_an_event_is_told_again_if_it_is_not_known_to_be_taken(
    told: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.round()
    cancelled(told)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(webhook.Webhook, "_note", die)
        with pytest.raises(KeyboardInterrupt):
            told.round()
    told.dispatcher = told.new_dispatcher()
    told.round(after_seconds=60)
    assert len(receiver.sent) == 2
    assert receiver.bodies[0] == receiver.bodies[1]


def test_only_what_happens_from_its_first_round_on_is_told(told: World, receiver: Receiver) -> None:
    cancelled(told)
    told.round()
    job = cancelled(told)
    told.round()
    assert receiver.told() == [("cancelled", job)]


def test_what_is_not_taken_for_a_day_is_left_out(
    told: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    told.round()
    receiver.status = 503
    cancelled(told)
    cancelled(told)
    told.round()
    told.moment += timedelta(hours=20)
    job = cancelled(told)
    told.round()
    receiver.status = 200
    told.round(after_seconds=5 * 3600)
    assert receiver.told() == [("cancelled", job)]
    assert "2 events of more than a day ago are not told" in caplog.text


def test_a_round_that_takes_long_leaves_the_rest_to_the_next(
    told: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.round()
    jobs = [cancelled(told) for _ in range(3)]
    # A round is then over at once.
    monkeypatch.setattr(webhook, "ROUND_SECONDS", -1.0)
    told.round()
    assert receiver.told() == []
    monkeypatch.setattr(webhook, "ROUND_SECONDS", 60.0)
    for count in (3, 3):
        told.round()
        assert receiver.told() == [("cancelled", job) for job in jobs[:count]]


def test_a_receiver_that_hangs_delays_no_other_loop_and_no_shutdown(
    told: World, receiver: Receiver
) -> None:
    told.round()
    told.dispatcher._lease.give_up()
    receiver.answers.clear()
    cancelled(told)
    stop = threading.Event()
    thread = threading.Thread(target=told.dispatcher.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: receiver.asked == 1, 20)
        job = told.submit()
        wait_until(lambda: told.job(job).state is JobState.STARTING, 20)
        told.cluster.set(f"{job}-1", SubmissionState.SUCCEEDED)
        wait_until(lambda: told.job(job).state is JobState.SUCCEEDED, 20)
        assert receiver.sent == []
        assert told.dispatcher.alive()
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_an_event_that_is_committed_late_is_not_passed_over(
    world: World,  # noqa: F811
    receiver: Receiver,
    postgres_url: str,
) -> None:
    """PostgreSQL numbers events before they are committed."""
    database = Database(empty_database(postgres_url))
    database.migrate()
    told = World(database, world.settings)
    sender = webhook.Webhook(database, receiver.url, None, told.now)
    sender.tell()
    late = told.submit()
    with database.write() as session:
        JobRepository(session, told.now()).transition(late, JobState.CANCELLED, message=None)
        early = cancelled(told)
        sender.tell()
        assert receiver.told() == []
    sender.tell()
    assert receiver.told() == [("cancelled", late), ("cancelled", early)]
    database.dispose()


def test_both_databases_know_how_far_it_is(
    world: World,  # noqa: F811
    database: Database,
    receiver: Receiver,
) -> None:
    settings = world.settings.model_copy(update={"webhook_url": receiver.url})
    told = World(database, settings)
    told.round()
    job, submission = started(told)
    finds(told, job, WORSE)
    told.dispatcher._lease.give_up()
    told.dispatcher = told.new_dispatcher()
    told.ends(submission, 0)
    told.round()
    told.round()
    assert receiver.told() == [("finding", job), ("succeeded", job)]
