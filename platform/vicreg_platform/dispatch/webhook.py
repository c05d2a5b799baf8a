"""POSTs events to a receiver: jobs that ended, and new findings of trainings.

Events are rows of ``events``, in the order of their ids. The position is stored in the database, so
an event may be sent twice after a restart; none is skipped unless it is more than a day old.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy import BigInteger, Integer
from sqlalchemy.orm import Mapped, mapped_column

from vicreg_platform.clock import Clock
from vicreg_platform.database import Base, Database
from vicreg_platform.dispatch.backoff import Backoff
from vicreg_platform.errors import NotDelivered
from vicreg_platform.jobs.event_cursor import EventCursor
from vicreg_platform.jobs.repository import JobRepository
from vicreg_platform.jobs.states import JobState
from vicreg_platform.jobs.tables import Event, Job
from vicreg_platform.telemetry import DELIVERIES

logger = logging.getLogger(__name__)

SIGNATURE = "X-Vicreg-Signature"
TIMEOUT_SECONDS = 5.0
"""To connect, to send, and for each part of the answer."""
KEPT = timedelta(days=1)
"""How long a receiver is tried with an event."""
BATCH = 500
"""Events that are read at once."""
ROUND_SECONDS = 60.0
"""After which a round sends no more events: a loop with a long round is reported as stalled."""
_RECEIVER = "the webhook"
_ONE_ROW = 1
_ENDED = {
    JobState.SUCCEEDED.value: "has succeeded",
    JobState.FAILED.value: "has failed",
    JobState.CANCELLED.value: "was cancelled",
}


class WebhookRow(Base):
    """How far the webhook is: one row, once there is a webhook."""

    __tablename__ = "webhook"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    told: Mapped[int] = mapped_column(BigInteger)
    """All events up to this one have been told, or were not to be."""


class Webhook:
    """Tells its receiver what happens.

    Args:
        database: where events are.
        url: of the receiver.
        secret: signs what is sent; None if nothing does.
        now: the clock.
    """

    def __init__(self, database: Database, url: str, secret: str | None, now: Clock) -> None:
        self._database = database
        self._url = url
        self._secret = secret
        self._now = now
        self._cursor = EventCursor(0)
        self._backoff = Backoff(now, ping=lambda: None)

    def tell(self) -> None:
        """Tell what has happened since the last event that the receiver has taken, oldest first.

        The first time, there is nothing to tell: only what happens from then on is told.

        Raises:
            DatabaseUnavailable: the database is unreachable.
            LeaseLost: another dispatcher has taken over.
        """
        if self._backoff.skips(_RECEIVER):
            return
        known = told = self._told()
        too_old, until = 0, time.monotonic() + ROUND_SECONDS
        for event, job in self._after(known):
            if _name(event) is not None:
                if event.at < self._now() - KEPT:
                    too_old += 1
                elif time.monotonic() > until or not self._deliver(event, job):
                    break
                else:
                    known = event.id
                    self._note(known)
            told = event.id
        if told != known:
            self._note(told)
        if too_old:
            DELIVERIES.labels("left_out").inc(too_old)
            logger.warning(
                "%d events of more than a day ago are not told to %s", too_old, _RECEIVER
            )

    def _told(self) -> int:
        with self._database.read() as session:
            row = session.get(WebhookRow, _ONE_ROW)
        if row is not None:
            return row.told
        with self._database.write() as session:
            last = JobRepository(session, self._now()).last_event()
            session.add(WebhookRow(id=_ONE_ROW, told=last))
        return last

    def _note(self, event_id: int) -> None:
        with self._database.write() as session:
            session.merge(WebhookRow(id=_ONE_ROW, told=event_id))

    def _after(self, told: int) -> Iterator[tuple[Event, Job]]:
        """Events after ``told``, up to the first number that may still be to come."""
        with self._database.read() as session:
            found = JobRepository(session, self._now()).events_of_all(BATCH, told)
        if self._cursor.complete < told:  # another dispatcher was at work, or none yet
            self._cursor = EventCursor(told)
        unread = [event.id for event, _ in found if event.id > self._cursor.complete]
        self._cursor.new(unread, time.monotonic())
        return ((event, job) for event, job in found if event.id <= self._cursor.complete)

    def _deliver(self, event: Event, job: Job) -> bool:
        """Send an event; returns whether the receiver has taken it."""
        failing = bool(self._backoff)
        with self._backoff.attempt(_RECEIVER):
            self._post(json.dumps(_body(event, job)).encode())
        taken = not self._backoff
        DELIVERIES.labels("delivered" if taken else "failed").inc()
        if failing and taken:
            logger.info("%s takes events again", _RECEIVER)
        return taken

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            digest = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            headers[SIGNATURE] = f"sha256={digest}"
        try:
            # Its address may be a secret: no error names it. What it answers is not read.
            with httpx.stream(
                "POST", self._url, content=body, headers=headers, timeout=TIMEOUT_SECONDS
            ) as answer:
                status = answer.status_code
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise NotDelivered(f"the receiver does not answer ({reason})") from None
        if not httpx.codes.is_success(status):
            raise NotDelivered(f"the receiver answers {status} instead of 2xx")


def _name(event: Event) -> str | None:
    """What an event is called when it is told; None if it is not told."""
    if event.finding is not None:
        return "finding"
    return event.after if event.after in _ENDED and event.after != event.before else None


def _body(event: Event, job: Job) -> dict[str, Any]:
    what = _ENDED[event.after] if event.finding is None else f"has the finding {event.finding}"
    owner = f" of {job.owner}" if job.owner else ""
    reason = f": {event.message}" if event.message else ""
    text = f"{job.kind} {job.name} ({job.id}){owner} {what}{reason}"
    return {
        "id": event.id,
        "event": _name(event),
        "at": event.at.isoformat(),
        "job": {
            "id": job.id,
            "name": job.name,
            "kind": job.kind,
            "owner": job.owner,
            "state": event.after,
        },
        "finding": event.finding,
        "message": event.message,
        # Of a chat, & < > would make links and mentions.
        "text": html.escape(text, quote=False),
    }
