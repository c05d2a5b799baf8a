"""What happens to jobs, as it happens, for any number of browsers.

The database is asked once for all of them, at most every ``POLL_SECONDS``, while there are any.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from anyio.to_thread import run_sync

from vicreg_platform.errors import Unavailable
from vicreg_platform.jobs.event_cursor import EventCursor
from vicreg_platform.jobs.schemas import JobEvent, JobProgress
from vicreg_platform.jobs.service import JobService

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
ALIVE = b"event: alive\ndata: {}\n\n"
ALIVE_SECONDS = 3.0
"""How often browsers are told that the database answers: what they show is not stale."""
BEAT_SECONDS = 10.0
"""After this long without a message, one that says nothing: the stream still flows."""
BATCH = 500
"""Events that are read at once."""
BACKLOG = 1000
"""Messages that wait for a browser; one that is further behind is cut off, and comes back."""
PERMITTED_SECONDS = 30.0
"""How often a browser must show that it may still listen."""


class Subscriber:
    """A browser that listens."""

    def __init__(self) -> None:
        self.messages: deque[bytes] = deque()
        self.arrived = asyncio.Event()
        self.lost = False
        """It was too slow to be told everything."""

    def tell(self, message: bytes) -> None:
        """Give it a message, which all share."""
        if len(self.messages) >= BACKLOG:
            self.lost = True
        else:
            self.messages.append(message)
        self.arrived.set()


class Feed:
    """Tells browsers what happens to jobs.

    Args:
        jobs: the jobs.
    """

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self._subscribers: set[Subscriber] = set()
        self._poll: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def subscribe(self) -> Subscriber:
        """A new listener, who is told of everything from now on.

        Raises:
            DatabaseUnavailable: the database is unreachable.
        """
        async with self._starting:
            subscriber = Subscriber()
            if self._poll is None or self._poll.done():
                cursor = EventCursor(await run_sync(self._jobs.last_event))
                self._subscribers.add(subscriber)
                self._poll = asyncio.create_task(self._tell(cursor))
            self._subscribers.add(subscriber)
            return subscriber

    async def stream(
        self, subscriber: Subscriber, last_event: int | None, permitted: Callable[[], bool]
    ) -> AsyncIterator[bytes]:
        """Server-sent events: each event of a job, and how far the jobs on the cluster are.

        Args:
            subscriber: the listener.
            last_event: the id of the last event that it has; it gets those since.
            permitted: whether it may still listen.
        """
        try:
            yield b"retry: 2000\n\n" + ALIVE
            async for message in self._missed(last_event):
                yield message
            checked = time.monotonic()
            while not subscriber.lost:
                if time.monotonic() - checked > PERMITTED_SECONDS:
                    if not await run_sync(permitted):
                        return
                    checked = time.monotonic()
                try:
                    async with asyncio.timeout(BEAT_SECONDS):
                        await subscriber.arrived.wait()
                except TimeoutError:
                    yield b": beat\n\n"
                subscriber.arrived.clear()
                while subscriber.messages:
                    yield subscriber.messages.popleft()
        finally:
            self._subscribers.discard(subscriber)

    async def _missed(self, last_event: int | None) -> AsyncIterator[bytes]:
        while last_event is not None:
            events = await run_sync(self._jobs.events_after, last_event, BATCH)
            for event in events:
                yield _event(event, event.id)
            last_event = events[-1].id if len(events) == BATCH else None

    async def _after(self, event_id: int) -> list[JobEvent]:
        found: list[JobEvent] = []
        while True:
            events = await run_sync(self._jobs.events_after, event_id, BATCH)
            found += events
            if len(events) < BATCH:
                return found
            event_id = events[-1].id

    async def _tell(self, cursor: EventCursor) -> None:
        """Ask the database, and tell all, as long as somebody listens."""
        known: dict[str, JobProgress] = {}
        told_alive = 0.0
        while self._subscribers:
            try:
                events = {event.id: event for event in await self._after(cursor.complete)}
                for event_id in cursor.new(list(events), time.monotonic()):
                    self._send(_event(events[event_id], cursor.complete))
                now = {each.job_id: each for each in await run_sync(self._jobs.on_cluster)}
                for job_id, progress in now.items():
                    if known.get(job_id) != progress:
                        self._send(_message("progress", progress.model_dump_json()))
                known = now
                if time.monotonic() - told_alive > ALIVE_SECONDS:
                    self._send(ALIVE)
                    told_alive = time.monotonic()
            except Unavailable as error:
                logger.warning("browsers are not told what happens: %s", error)
            except Exception:
                logger.exception("browsers are not told what happens")
            await asyncio.sleep(POLL_SECONDS)

    def _send(self, message: bytes) -> None:
        for subscriber in list(self._subscribers):
            subscriber.tell(message)
            if subscriber.lost:
                self._subscribers.discard(subscriber)


def _event(event: JobEvent, complete: int) -> bytes:
    # A browser that comes back names the id: what it may have missed is sent, some of it again.
    return f"id: {complete}\n".encode() + _message("job", event.model_dump_json())


def _message(kind: str, data: str) -> bytes:
    return f"event: {kind}\ndata: {data}\n\n".encode()
