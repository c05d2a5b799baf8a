"""Identifiers of jobs and schedules."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """An identifier that sorts by its time: 15 hex digits of time, 5 random ones.

    As in RFC 9562, section 6.2, method 3: 12 digits are milliseconds, 3 are 4096ths of one.
    """
    moment = (time.time_ns() << 12) // 1_000_000
    return f"{moment:015x}{secrets.randbits(20):05x}"
