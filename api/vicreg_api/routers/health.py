"""``/healthz`` and ``/readyz``: they answer however busy the API's threads are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from fastapi import APIRouter, Request, Response, status
from pydantic import BaseModel

from vicreg_api.services import Services
from vicreg_platform.dispatch.lease import lease_is_held
from vicreg_platform.errors import PlatformError

router = APIRouter(tags=["health"])

ANSWER_SECONDS = 5.0
"""How long a part may take to answer before it counts as hanging."""


class Health(BaseModel):
    """The process answers."""

    status: str


class Readiness(BaseModel):
    """Whether jobs can run, and if not, why."""

    ready: bool
    checks: dict[str, str]
    """For each part, `ok` or what is wrong."""


class Question:
    """A question to one part. All who ask while it is being answered share the answer.

    Args:
        ask: returns what is wrong, or nothing; raises PlatformError.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._asked: Future[str] | None = None

    async def answer(self) -> str:
        """``ok``, or what is wrong."""
        if self._asked is None or self._asked.done():
            self._asked = self._thread.submit(self._answer)
        try:
            waited = asyncio.wrap_future(self._asked)
            return await asyncio.wait_for(asyncio.shield(waited), ANSWER_SECONDS)
        except TimeoutError:
            return f"no answer within {ANSWER_SECONDS:g} s"

    def _answer(self) -> str:
        try:
            answer = self._ask()
        except PlatformError as error:
            return str(error)
        return answer if isinstance(answer, str) else "ok"


def questions(services: Services) -> dict[str, Question]:
    """What readiness depends on."""
    return {
        "database": Question(services.database.ping),
        "ray": Question(lambda: _ray(services)),
        "mlflow": Question(services.tracking.ping),
        "dispatcher": Question(lambda: _dispatcher(services)),
    }


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz() -> Health:
    """Whether this process is alive."""
    return Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Whether the database, Ray, MLflow and a dispatcher are reachable, and which one is not."""
    asked: dict[str, Question] = request.app.state.readiness
    answers = await asyncio.gather(*(question.answer() for question in asked.values()))
    ready = all(answer == "ok" for answer in answers)
    if not ready:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(ready=ready, checks=dict(zip(asked, answers, strict=True)))


def _ray(services: Services) -> str:
    total = services.cluster.capacity().total
    if total.cpus or total.gpus:
        return "ok"
    return "the Ray cluster has no node with CPUs or GPUs: nothing can run"


def _dispatcher(services: Services) -> str:
    if lease_is_held(services.database):
        return "ok"
    return "no dispatcher is running: queued jobs wait"
