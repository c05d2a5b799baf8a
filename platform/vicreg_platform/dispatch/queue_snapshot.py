"""The queue as the scheduler sees it: written by the dispatcher, read by the API.

Kept for the first ``SHOWN`` jobs; of the others, the database has the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy import Integer
from sqlalchemy.orm import Mapped, Session, mapped_column

from vicreg_platform.clock import Clock
from vicreg_platform.database import Base, Database
from vicreg_platform.dispatch.plan import Basis, Place, Policy, Space
from vicreg_platform.needs import Bundle

SHOWN = 1000
"""How many places are kept."""
REFRESH = timedelta(seconds=10)
"""A snapshot is written again after this time even if it has not changed: its age says whether
there is a dispatcher."""
STALE = timedelta(seconds=60)
"""A snapshot that is older says nothing about now."""


class SnapshotRow(Base):
    """The latest snapshot, in one row."""

    __tablename__ = "queue_view"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime]
    content: Mapped[dict[str, Any]]


class StoredPlace(BaseModel):
    """Where a job stands."""

    id: str
    position: int
    by: list[str]
    """The jobs that it waits for."""
    at: float | None
    """When it is expected to start, in seconds since 1970."""
    basis: Basis | None


class Content(BaseModel):
    """What a snapshot holds."""

    policy: str
    nodes: list[tuple[float, float]]
    """CPUs and GPUs of each."""
    taken: list[tuple[float, float]]
    """What others than the platform's jobs use of each."""
    places: list[StoredPlace]
    had: list[list[tuple[float, float, int]]] = []
    """The sets of nodes that the cluster has had, the present one last: CPUs and GPUs, and how many
    such nodes. A dispatcher that starts while a node is lost knows by it that it may come back."""

    @property
    def space(self) -> Space:
        """The room that there was."""
        return Space(
            tuple(Bundle(*node) for node in self.nodes), tuple(Bundle(*node) for node in self.taken)
        )


@dataclass(frozen=True)
class QueueSnapshot:
    """A snapshot that can be read."""

    at: datetime
    content: Content

    def place(self, job_id: str) -> StoredPlace | None:
        """Where a job stands, if it is among the first."""
        return next((place for place in self.content.places if place.id == job_id), None)


class SnapshotStore:
    """Stores the snapshot, when it has changed.

    Args:
        database: where it is kept.
        policy: by which jobs are placed.
        now: the clock.
    """

    def __init__(self, database: Database, policy: Policy, now: Clock) -> None:
        self._database = database
        self._policy = "backfill" if policy.backfill else "strict"
        self._now = now
        self._stored: Content | None = None
        self._stored_at: datetime | None = None

    def due(self) -> bool:
        """Whether something is to be stored even if nobody waits."""
        return self._stored is None or bool(self._stored.places) or not self._is_fresh()

    def had(self) -> list[tuple[Bundle, ...]]:
        """The sets of nodes that the cluster has had, by the latest snapshot, however old it is."""
        with self._database.read() as session:
            content = _content(session.get(SnapshotRow, 1))
        return [
            tuple(Bundle(cpus, gpus) for cpus, gpus, count in nodes for _ in range(count))
            for nodes in (content.had if content else [])
        ]

    def store(
        self, space: Space, waiting: Sequence[Place], had: Iterable[tuple[Bundle, ...]]
    ) -> None:
        """Store the nodes, the places of the jobs that wait, in their order, and ``had``."""
        content = Content(
            policy=self._policy,
            nodes=[(node.cpus, node.gpus) for node in space.nodes],
            taken=[(node.cpus, node.gpus) for node in space.taken],
            places=[_stored(place) for place in waiting[:SHOWN]],
            had=[
                [(node.cpus, node.gpus, count) for node, count in Counter(nodes).items()]
                for nodes in had
            ],
        )
        if content == self._stored and self._is_fresh():
            return
        now = self._now()
        with self._database.write() as session:
            session.merge(SnapshotRow(id=1, at=now, content=content.model_dump(mode="json")))
        self._stored, self._stored_at = content, now

    def _is_fresh(self) -> bool:
        return self._stored_at is not None and self._now() - self._stored_at < REFRESH


def read_snapshot(session: Session, now: datetime) -> QueueSnapshot | None:
    """The latest snapshot; None if there is none, or one that is too old to say anything."""
    row = session.get(SnapshotRow, 1)
    content = _content(row)
    if row is None or content is None or now - row.at > STALE:
        return None
    return QueueSnapshot(row.at, content)


def as_datetime(seconds: float | None) -> datetime | None:
    """Seconds since 1970 as a moment; None if there is none, or it is beyond the calendar."""
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _stored(place: Place) -> StoredPlace:
    estimate = place.estimate
    if estimate is not None and not math.isfinite(estimate.at):
        estimate = None
    # A minute is as exact as an estimate can be, and a snapshot is written less often.
    return StoredPlace(
        id=place.job.id,
        position=place.position,
        by=list(place.by[:10]),
        at=None if estimate is None else 60.0 * math.ceil(estimate.at / 60.0),
        basis=None if estimate is None else estimate.basis,
    )


def _content(row: SnapshotRow | None) -> Content | None:
    try:
        return None if row is None else Content.model_validate(row.content)
    except ValidationError:
        return None
