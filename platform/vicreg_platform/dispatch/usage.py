"""What each owner has used of the cluster: GPU-seconds, and CPU-seconds of jobs without GPUs.

What is past counts less, by half after every half-life. An attempt is added when it ends; those on
the cluster are counted where they are read.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from vicreg_platform.database import Base
from vicreg_platform.dispatch.plan import used_between
from vicreg_platform.needs import Needs

NOBODY = ""
"""The owner of jobs without one: the API was open."""


class OwnerUsage(Base):
    """What an owner had used at a moment."""

    __tablename__ = "owner_usage"

    owner: Mapped[str] = mapped_column(String(200), primary_key=True)
    amount: Mapped[float]
    at: Mapped[datetime]


def rate(needs: Needs) -> float:
    """What a job uses in a second: its GPUs; its CPUs if it has none."""
    return needs.gpus or needs.cpus


def amount_of(
    needs: Needs, start: datetime, end: datetime, now: datetime, half_life: float
) -> float:
    """What a job has used from ``start`` to ``end``, seen from ``now``."""
    moments = (start.timestamp(), end.timestamp(), now.timestamp())
    return rate(needs) * max(0.0, used_between(*moments, half_life))


def add_usage(
    session: Session, owner: str | None, amount: float, now: datetime, half_life: float
) -> None:
    """Add what an attempt that ends now has used."""
    row = session.get(OwnerUsage, owner or NOBODY)
    if row is None:
        session.add(OwnerUsage(owner=owner or NOBODY, amount=amount, at=now))
        return
    row.amount = _decayed(row, now, half_life) + amount
    row.at = now


def usage_of_owners(session: Session, now: datetime, half_life: float) -> dict[str | None, float]:
    """What each owner's ended attempts have used, seen from now."""
    return {
        row.owner or None: _decayed(row, now, half_life)
        for row in session.scalars(select(OwnerUsage))
    }


def _decayed(row: OwnerUsage, now: datetime, half_life: float) -> float:
    return float(row.amount * 0.5 ** (max(0.0, (now - row.at).total_seconds()) / half_life))
