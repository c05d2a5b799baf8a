"""Threads for calls to Ray and MLflow, which may hang: other requests have threads of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

T = TypeVar("T")

LOGS = CapacityLimiter(16)
"""For reading logs."""
NEIGHBOURS = CapacityLimiter(16)
"""For everything else that asks Ray or MLflow."""


async def in_thread(limit: CapacityLimiter, call: Callable[[], T]) -> T:
    """What ``call`` returns, called in a thread as soon as the limit has room."""
    return await run_sync(call, limiter=limit)
