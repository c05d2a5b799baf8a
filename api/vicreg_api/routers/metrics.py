"""``/v1/metrics``: curves of several jobs at once."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query

from vicreg_api.routers.jobs import MetricKeys, MetricPointSchema
from vicreg_api.services import InjectedServices, Services
from vicreg_api.threads import NEIGHBOURS, in_thread
from vicreg_platform.errors import NotFound, TrackingRefused
from vicreg_platform.schema import Schema
from vicreg_platform.tracking import thinned

router = APIRouter(prefix="/v1/metrics", tags=["jobs"])


class Curves(Schema):
    """The curves of several jobs."""

    items: dict[str, dict[str, list[MetricPointSchema]]]
    """By the job's id and the metric's name. A job without a run has none."""


@router.get("")
async def curves(
    services: InjectedServices,
    job: Annotated[list[str], Query(min_length=1, max_length=50, description="Ids, 1 to 50")],
    key: MetricKeys,
    points: Annotated[int, Query(ge=2, le=5000, description="Points of a curve, at most")] = 500,
) -> Curves:
    """Curves of several jobs, from MLflow: evenly thinned, each with its last point."""
    runs = await run_sync(services.jobs.runs_of, job)
    items = {}
    for job_id, run_id in runs.items():
        read = partial(_of_run, services, run_id, key, points)
        items[job_id] = await in_thread(NEIGHBOURS, read)
    return Curves(items=items)


def _of_run(
    services: Services, run_id: str, keys: list[str], points: int
) -> dict[str, list[MetricPointSchema]]:
    found = {}
    for key in keys:
        try:
            history = services.tracking.history(run_id, key)
        except (NotFound, TrackingRefused):
            continue  # the run is deleted: the others' curves are shown all the same
        found[key] = [MetricPointSchema.of(point) for point in thinned(history, points)]
    return found
