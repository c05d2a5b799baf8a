"""The rows: API keys, and what was done with them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from vicreg_platform.database import Base


class ApiKey(Base):
    """A key, of which only the digest is kept."""

    __tablename__ = "api_keys"

    prefix: Mapped[str] = mapped_column(String(16), primary_key=True)
    """The key's public part, by which it is found and named."""
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the whole key: it is random enough to need no slow hash."""
    name: Mapped[str] = mapped_column(String(200))
    """Whose key it is: several keys may have one owner."""
    role: Mapped[str] = mapped_column(String(16))
    max_jobs: Mapped[int | None] = mapped_column(Integer)
    max_gpus: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_api_keys_name", "name"),)


class AuditEntry(Base):
    """A request that changes something: written before it is acted on."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    at: Mapped[datetime]
    name: Mapped[str] = mapped_column(String(200))
    """Who."""
    key: Mapped[str | None] = mapped_column(String(16))
    """By which key; null where the API is open."""
    address: Mapped[str] = mapped_column(String(64))
    """From where."""
    method: Mapped[str] = mapped_column(String(8))
    path: Mapped[str] = mapped_column(Text)
    status: Mapped[int | None] = mapped_column(Integer)
    """How it was answered; null where the API died before it could say."""
    made: Mapped[str | None] = mapped_column(Text)
    """Where what it made is."""
