"""Every error leaves as `application/problem+json` (RFC 9457): what was wrong, where, and what to do."""

import math
import random
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.codes.catalogue import path_of
from core.errors import MOST_ERRORS, FieldError, ServiceError, bounded
from engine.contract.findings import pointer
from engine.contract.sentences import sentence
from modelpress.resources.common import Problem, ProblemDetail

MEDIA_TYPE = "application/problem+json"


_drawn = random.Random()  # noqa: S311 - no secret, and asking the system each time would let other threads run before the event loop


def request_id() -> str:
    """A fresh id of a request, which its answer and the log name."""
    return f"req_{_drawn.getrandbits(80):020x}"


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` entry of a route that may answer with these error statuses."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for status in statuses
    }


def render(
    request_id: str,
    status: int,
    code: str,
    detail: str,
    *,
    title: str | None = None,
    hint: str | None = None,
    errors: Iterable[ProblemDetail] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """One problem as a response."""
    problem = Problem(
        type=path_of(code),
        title=title or code.replace("_", " ").capitalize(),
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        hint=hint,
        errors=list(errors),
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def of_service_error(request_id: str, error: ServiceError) -> Response:
    """A domain error as the problem that it describes."""
    headers = dict(getattr(error, "headers", {}))
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    details = [ProblemDetail.model_validate(item, from_attributes=True) for item in error.errors]
    return render(request_id, error.status, error.code, error.message, title=error.title, hint=error.hint, errors=details, headers=headers)


def install(app: FastAPI) -> None:
    """Turn what a route raises into problems; unexpected exceptions are turned by the outermost middleware."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return of_service_error(request.state.request_id, error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    detail = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.url.path} does not answer {request.method}",
    }.get(status, error.detail)
    hint = "GET /openapi.json lists every path and verb" if status in (404, 405) else None
    headers = dict(error.headers or {})
    if status == 405:
        headers["Allow"] = ", ".join(_verbs(request))
    return render(request.state.request_id, error.status_code, status.name.lower(), detail, hint=hint, headers=headers)


def _verbs(request: Request) -> list[str]:
    """Every verb that the path answers: several routes may share it (RFC 9110, section 10.2.1), and whatever answers GET answers HEAD."""
    matching = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    found = {verb for route in matching for verb in route.methods or ()}
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's own findings about parameters and bodies; an id that cannot exist is simply not found."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["loc"][0] == "path" for item in found):
        return not_found(request)
    if any(item["type"] == "json_invalid" for item in found):
        return render(request.state.request_id, 400, "malformed_request", f"the body is not JSON: {found[0]['ctx']['error']}")
    code = "invalid_body" if any(item["loc"][0] == "body" for item in found) else "invalid_parameter"
    errors = bounded(
        [FieldError(_pointer(item["loc"]), item["type"], *sentence(item)) for item in found[:MOST_ERRORS]],
        total=len(found),
    )
    details = [ProblemDetail.model_validate(item, from_attributes=True) for item in errors]
    return render(request.state.request_id, 422, code, f"{details[0].pointer}: {details[0].detail}", errors=details)


def not_found(request: Request) -> Response:
    """The answer for an id that does not exist, is malformed, or belongs to someone else: the same in all three cases."""
    return render(request.state.request_id, 404, "not_found", "no such resource in this project")


def _pointer(location: Sequence[str | int]) -> str:
    """Where a finding lies: a JSON pointer for bodies, `/query/<name>` and the like for parameters."""
    return pointer(location[1:] if location[0] == "body" else location)
