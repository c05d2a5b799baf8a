"""``/v1/keys`` and ``/v1/audit``, for administrators."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response, status
from pydantic import BaseModel, ConfigDict, Field

from vicreg_api.access import administrator
from vicreg_api.body import StrictJsonRoute
from vicreg_api.parameters import Cursor, Limit
from vicreg_api.problems import Problem
from vicreg_api.services import InjectedServices
from vicreg_platform.keys.schemas import AuditSchema, KeySchema, NewKey, Role
from vicreg_platform.pages import Page
from vicreg_platform.specs.base import Name, TimeSpan

router = APIRouter(
    prefix="/v1",
    tags=["keys"],
    route_class=StrictJsonRoute,
    dependencies=[Depends(administrator)],
    responses={403: {"model": Problem, "description": "Not an administrator's key"}},
)


class KeyRequest(BaseModel):
    """A key to create."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: Name
    """Its owner. Jobs belong to names, so a second key of the same name can replace the first."""
    role: Role
    expires_in: Annotated[TimeSpan, Field(gt=timedelta(0), le=timedelta(days=3650))] | None = None
    """Seconds, or as in `P90D`."""
    max_jobs: int | None = Field(default=None, ge=1, le=1_000_000)
    """Unfinished jobs that its owner may have."""
    max_gpus: int | None = Field(default=None, ge=0, le=1_000_000)
    """GPUs that those jobs may request in total."""
    max_priority: int | None = Field(default=None, ge=-1000, le=1000)
    """The highest priority that it may give a job."""
    weight: float | None = Field(default=None, ge=0.01, le=100.0)
    """Of its owner's share of the cluster: with 2, twice that of an owner with 1, the default."""


@router.post("/keys", status_code=status.HTTP_201_CREATED)
def create(services: InjectedServices, response: Response, request: KeyRequest) -> NewKey:
    """Create a key. It is shown only now: just its digest is stored."""
    made = services.keys.create(**request.model_dump())
    response.headers["Location"] = f"/v1/keys/{made.prefix}"
    return made


@router.get("/keys")
def find(services: InjectedServices) -> Page[KeySchema]:
    """All keys, newest first, without the keys themselves."""
    return services.keys.all()


@router.delete("/keys/{prefix}")
def revoke(
    services: InjectedServices, prefix: Annotated[str, Path(pattern="^[0-9a-f]{8}$")]
) -> KeySchema:
    """Revoke a key, from the next request on."""
    return services.keys.revoke(prefix)


@router.get("/audit")
def audit(
    services: InjectedServices, limit: Limit = 100, cursor: Cursor = None
) -> Page[AuditSchema]:
    """Every request that changed something or was refused, newest first."""
    return services.keys.audit(limit, cursor)
