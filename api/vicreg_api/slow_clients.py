"""Closes connections whose client does not finish its request.

uvicorn waits for ever, and each such connection takes a file handle: with some hundred of them no
other client could connect.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 20.0
"""How long a client may take to send a request, from its first byte to its last."""
_LOOK_SECONDS = 1.0


class ImpatientProtocol(H11Protocol):
    """HTTP that waits ``REQUEST_SECONDS`` for the rest of a request."""

    def connection_made(self, transport: Any) -> None:
        """See ``asyncio.Protocol``."""
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        now = self.loop.time()
        # Between two requests, uvicorn's own keep-alive timer runs.
        waiting = (
            self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
            and self.timeout_keep_alive_task is None
        )
        if not waiting:
            self._waiting_since = now
        elif now - self._waiting_since > REQUEST_SECONDS:
            self.transport.abort()
        self._next_look: asyncio.TimerHandle = self.loop.call_later(_LOOK_SECONDS, self._watch)
