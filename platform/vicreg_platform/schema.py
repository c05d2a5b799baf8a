"""The base of every answer of the API."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """An answer of the API; its docstrings are the API's documentation."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)
