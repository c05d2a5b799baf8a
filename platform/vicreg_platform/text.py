"""Text from outside, as what every database stores and a terminal shows."""

from __future__ import annotations

MAX_LENGTH = 2000


def printable(text: str) -> str:
    """The text as one line of at most ``MAX_LENGTH`` characters.

    PostgreSQL refuses NUL and lone surrogates, and control characters would move a terminal's
    cursor.
    """
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return shown if len(shown) <= MAX_LENGTH else f"{shown[:MAX_LENGTH]}…"
