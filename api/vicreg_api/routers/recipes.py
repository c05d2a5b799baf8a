"""``/v1/recipes`` and ``/v1/schemas``: what a spec can be."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter

from vicreg_platform.pages import Page
from vicreg_platform.recipes import recipes_of_one_job
from vicreg_platform.schedules.spec import ScheduleSpec
from vicreg_platform.schema import Schema
from vicreg_platform.specs import spec_schema

router = APIRouter(prefix="/v1", tags=["specs"])


class Recipe(Schema):
    """A ready-made spec."""

    name: str
    summary: str
    """What it is, in a sentence."""
    text: str
    """The spec as YAML, with comments."""


@router.get("/recipes")
def recipes() -> Page[Recipe]:
    """The ready-made specs of one job that the platform comes with."""
    return Page(
        items=[
            Recipe(name=name, summary=summary, text=text)
            for name, summary, text in recipes_of_one_job()
        ]
    )


@router.get("/schemas/{what}")
def schema(what: Literal["job", "schedule"]) -> dict[str, Any]:
    """The JSON Schema of a job's spec, or of a schedule's."""
    return spec_schema() if what == "job" else ScheduleSpec.model_json_schema()
