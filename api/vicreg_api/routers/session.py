"""``/v1/session``: a browser signs in with an API key, once."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response, status
from pydantic import BaseModel, ConfigDict, Field

from vicreg_api.access import SESSION_COOKIE, csrf_token, identified
from vicreg_api.body import StrictJsonRoute
from vicreg_api.problems import Problem
from vicreg_api.services import InjectedServices
from vicreg_platform.keys.schemas import SessionSchema
from vicreg_platform.keys.service import SESSION, Caller

router = APIRouter(
    prefix="/v1/session",
    tags=["session"],
    route_class=StrictJsonRoute,
    responses={401: {"model": Problem, "description": "The key or the session is not valid"}},
)


class SignIn(BaseModel):
    """A key to sign in with."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    key: str = Field(max_length=200)
    """As `vicreg keys create` prints it."""


def _answer(caller: Caller, session: str | None) -> SessionSchema:
    return SessionSchema(
        name=caller.name,
        role=caller.role,
        key=caller.key,
        csrf=None if session is None else csrf_token(session),
    )


@router.get("")
def get(request: Request, caller: Annotated[Caller, Depends(identified)]) -> SessionSchema:
    """Who the caller is, and what they may do."""
    return _answer(caller, getattr(request.state, "session", None))


@router.post("")
def sign_in(
    request: Request, response: Response, services: InjectedServices, given: SignIn
) -> SessionSchema:
    """Sign a browser in: the answer sets a cookie that no script can read, for 7 days."""
    token = services.keys.sign_in(given.key)
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _answer(services.keys.authenticate_session(token), token)


@router.delete("", status_code=status.HTTP_204_NO_CONTENT)
def sign_out(
    request: Request,
    response: Response,
    services: InjectedServices,
    _: Annotated[Caller, Depends(identified)],
) -> None:
    """Sign the browser out, a viewer's too: its session ends."""
    session = getattr(request.state, "session", None)
    if session is not None:
        services.keys.sign_out(session)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="strict")
