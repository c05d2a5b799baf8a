"""Parameters of several routes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

Identifier = Annotated[str, Path(pattern="^[0-9a-zA-Z-]{1,64}$")]
Limit = Annotated[int, Query(ge=1, le=200, description="Items per page")]
Cursor = Annotated[
    str | None, Query(pattern="^[0-9a-zA-Z-]{1,64}$", description="`next_cursor` of a page")
]
