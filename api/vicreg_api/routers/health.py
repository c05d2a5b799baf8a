"""``/healthz`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fastapi import APIRouter, Response, status
from pydantic import BaseModel

from vicreg_api.services import InjectedServices, Services
from vicreg_platform.dispatch.lease import lease_is_held
from vicreg_platform.errors import PlatformError

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether jobs can run, and if not, why."""

    ready: bool
    checks: dict[str, str]
    """For each part, `ok` or what is wrong."""


@router.get("/healthz")
def healthz() -> Health:
    """Whether this process is alive."""
    return Health(status="ok")


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(services: InjectedServices, response: Response) -> Readiness:
    """Whether the database, Ray, MLflow and a dispatcher are reachable, and which one is not."""
    questions: dict[str, Callable[[], object]] = {
        "database": services.database.ping,
        "ray": services.cluster.capacity,
        "mlflow": services.tracking.ping,
        "dispatcher": lambda: _dispatcher(services),
    }
    with ThreadPoolExecutor(len(questions)) as pool:
        checks = dict(zip(questions, pool.map(_answer, questions.values()), strict=True))
    ready = all(answer == "ok" for answer in checks.values())
    if not ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(ready=ready, checks=checks)


def _dispatcher(services: Services) -> str:
    if lease_is_held(services.database):
        return "ok"
    return "no dispatcher is running: queued jobs wait"


def _answer(question: Callable[[], object]) -> str:
    try:
        answer = question()
    except PlatformError as error:
        return str(error)
    return answer if isinstance(answer, str) else "ok"
