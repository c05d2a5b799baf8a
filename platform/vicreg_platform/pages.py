"""What every list of the API answers: a page of items, and the cursor of the next page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from vicreg_platform.schema import Schema

Item = TypeVar("Item")


class Page(Schema, Generic[Item]):
    """Some items of a list."""

    items: list[Item]
    next_cursor: str | None = None
    """Pass as `cursor` for the next page; null on the last one."""


def page_of(found: Sequence[Item], limit: int, cursor: Callable[[Item], object]) -> Page[Item]:
    """The page of the first ``limit`` items found.

    Args:
        found: up to ``limit + 1`` items: one more than fits says that there is another page.
        limit: items of a page.
        cursor: the place of an item in the list.
    """
    items = list(found[:limit])
    more = len(found) > limit
    return Page(items=items, next_cursor=str(cursor(items[-1])) if more else None)


def number_of(cursor: str | None) -> int | None:
    """A cursor that is a number; None if there is no cursor, or it is not one of ours."""
    return int(cursor[:18]) if cursor is not None and cursor.isdecimal() else None
