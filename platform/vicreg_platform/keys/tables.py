"""The tables of API keys and of the audit log."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from vicreg_platform.database import Base


class ApiKey(Base):
    """An API key, of which only the digest is stored."""

    __tablename__ = "api_keys"

    prefix: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The key's public part, by which it is found and named."""
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the key, which is random enough to need no slow hash."""
    name: Mapped[str] = mapped_column(String(200))
    """The owner: several keys may have the same."""
    role: Mapped[str] = mapped_column(String(16))
    max_jobs: Mapped[int | None] = mapped_column(Integer)
    max_gpus: Mapped[int | None] = mapped_column(Integer)
    max_priority: Mapped[int | None] = mapped_column(Integer)
    weight: Mapped[float | None]
    """Of its owner's share of the cluster; null is 1."""
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_api_keys_name", "name"),)


class BrowserSession(Base):
    """A browser that has signed in with a key, of whose token only the digest is stored."""

    __tablename__ = "browser_sessions"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(ForeignKey("api_keys.prefix"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]

    __table_args__ = (Index("ix_browser_sessions_expires_at", "expires_at"),)


class AuditEntry(Base):
    """A request that changes something, recorded before it is acted on."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[datetime]
    name: Mapped[str] = mapped_column(String(200))
    """Who."""
    key: Mapped[str | None] = mapped_column(String(16))
    """The public part of their key; null if the API is open."""
    address: Mapped[str] = mapped_column(String(64))
    """Their network address."""
    method: Mapped[str] = mapped_column(String(8))
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int | None] = mapped_column(Integer)
    """The HTTP status of the answer; null if the API died before it answered."""
    made: Mapped[str | None] = mapped_column(Text)
    """The address of what it created."""
