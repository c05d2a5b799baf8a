"""Errors as RFC 9457 problem details."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from vicreg_platform.errors import (
    GateNotMet,
    InvalidKey,
    InvalidSpec,
    PlatformError,
    TooManyRequests,
    Unavailable,
)

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "5"


class FieldProblem(BaseModel):
    """One fault of a spec, or one requirement that is not met."""

    field: str
    message: str


class Problem(BaseModel):
    """What went wrong."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] | None = None


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` as a problem."""
    app.add_exception_handler(PlatformError, _platform_error)
    app.add_exception_handler(RequestValidationError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected_error)


def respond(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """The HTTP answer for a problem."""
    return JSONResponse(
        problem.model_dump(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )


def problem_of(error: PlatformError) -> Problem:
    """An error of the platform as a problem."""
    errors = None
    if isinstance(error, InvalidSpec | GateNotMet):
        errors = [FieldProblem(field=f.field, message=f.message) for f in error.faults]
    return Problem(
        title=error.title, status=error.status, detail=str(error), code=error.code, errors=errors
    )


def _platform_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PlatformError)
    headers = None
    if isinstance(error, Unavailable):
        headers = {"Retry-After": RETRY_AFTER_SECONDS}
    elif isinstance(error, TooManyRequests):
        headers = {"Retry-After": f"{error.seconds:.0f}"}
    elif isinstance(error, InvalidKey):
        headers = {"WWW-Authenticate": "Bearer"}
    return respond(problem_of(error), headers)


def _request_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        FieldProblem(
            field=".".join(map(str, fault["loc"][1:])),
            message=fault["msg"].removeprefix("Value error, "),  # pydantic's word, no user's
        )
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in errors)
    return respond(
        Problem(
            title="The request is not valid",
            status=422,
            detail=detail,
            code="invalid_request",
            errors=errors,
        )
    )


def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return respond(
        Problem(
            title=str(error.detail),
            status=error.status_code,
            detail=str(error.detail),
            code=str(error.detail).lower().replace(" ", "_"),
        ),
        dict(error.headers) if error.headers else None,
    )


def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond(
        Problem(
            title="Internal error",
            status=500,
            detail="a bug of the platform; see the log of the API",
            code="internal",
        )
    )
