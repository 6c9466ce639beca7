"""What this installation can do, read from the engine's catalogue; and the schema of a spec."""

import functools
import hashlib
import inspect
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import ConfigDict

from api.http import conditional, problems
from api.http.headers import documented
from api.http.routing import ClosedRoute
from core.errors import NotFound
from engine.architectures.spec import catalogue as architectures
from engine.architectures.spec import listing
from engine.contract.method import Effect, Reference, Requires, catalogue
from engine.contract.sentences import suggestion
from engine.contract.spec import json_schema
from modelpress.resources.common import Page, Resource

router = APIRouter(route_class=ClosedRoute, tags=["methods"])


class Method(Resource):
    """A compression method: what it needs, what it changes, and every parameter as JSON Schema 2020-12."""

    object: Literal["method"] = "method"
    name: str
    """Value of `method` in a step."""
    family: str
    title: str
    description: str
    available: bool
    """Whether this installation can run it."""
    unavailable_reason: str | None
    requires: Requires
    effect: Effect
    params_schema: dict[str, Any]
    defaults: dict[str, Any]
    examples: list[dict[str, Any]]
    references: list[Reference]


@functools.cache
def describe(name: str) -> Method:
    """One entry of the catalogue."""
    method = catalogue()[name]
    schema = method.model_json_schema()
    available = method.available()
    return Method(
        name=name,
        family=method.family(),
        title=method.title,
        description=inspect.cleandoc(method.__doc__ or ""),
        available=available,
        unavailable_reason=None if available else "this installation does not carry the method's implementation",
        requires=method.requires,
        effect=method.effect,
        params_schema={"$schema": "https://json-schema.org/draft/2020-12/schema", **schema},
        defaults={key: field["default"] for key, field in schema["properties"].items() if "default" in field},
        examples=list(method.examples),
        references=list(method.references),
    )


@functools.cache
def _everything() -> Page[Method]:
    return Page[Method](data=[describe(name) for name in catalogue()], has_more=False)


def cacheable(request: Request, content: bytes, media_type: str = "application/json") -> Response:
    """Content that changes with the installed version only, under a strong ETag."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if conditional.not_modified(request.headers, etag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


_IF_NONE_MATCH = documented("If-None-Match")
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Unchanged since the ETag in `If-None-Match`"}}


@router.get("/v1/methods", operation_id="list_methods", response_model=Page[Method], openapi_extra=_IF_NONE_MATCH, responses=_NOT_MODIFIED)
def list_methods(request: Request) -> Response:
    """Every compression method, in one page."""
    return cacheable(request, _everything().model_dump_json().encode())


@router.get(
    "/v1/methods/{name}",
    operation_id="get_method",
    response_model=Method,
    openapi_extra=_IF_NONE_MATCH,
    responses={**_NOT_MODIFIED, **problems.responses(404)},
)
def get_method(request: Request, name: Annotated[str, Path(examples=["static_quantization"])]) -> Response:
    """One compression method."""
    if name not in catalogue():
        raise NotFound(f"there is no method {name!r}", hint=suggestion(name, catalogue()))
    return cacheable(request, describe(name).model_dump_json().encode())


@router.get(
    "/v1/schemas/spec",
    operation_id="get_spec_schema",
    response_class=Response,
    openapi_extra=_IF_NONE_MATCH,
    responses={
        200: {"description": "A JSON Schema", "content": {"application/schema+json": {"schema": {"type": "object"}}}},
        **_NOT_MODIFIED,
    },
)
def get_spec_schema(request: Request) -> Response:
    """The body of `POST /v1/jobs` as JSON Schema 2020-12, for forms and for completion in editors."""
    return cacheable(request, json.dumps(json_schema()).encode(), "application/schema+json")


class Architecture(Resource):
    """A builtin architecture: what safetensors and `.pt` files, which hold weights only, can be the weights of."""

    model_config = ConfigDict(extra="allow")

    object: Literal["architecture"] = "architecture"
    name: str
    """Value of `metadata.architecture`."""
    title: str
    family: str
    description: str
    params_schema: dict[str, Any]
    """What `metadata.architecture.params` may hold, as JSON Schema 2020-12."""
    defaults: dict[str, Any]
    input_shape: list[int | None]
    reference: str


@router.get(
    "/v1/architectures",
    operation_id="list_architectures",
    response_model=Page[Architecture],
    openapi_extra=_IF_NONE_MATCH,
    responses=_NOT_MODIFIED,
)
def list_architectures(request: Request) -> Response:
    """Every builtin architecture, in one page."""
    page = Page[Architecture](data=[Architecture.model_validate(item) for item in listing()], has_more=False)
    return cacheable(request, page.model_dump_json().encode())


@router.get(
    "/v1/architectures/{name}",
    operation_id="get_architecture",
    response_model=Architecture,
    openapi_extra=_IF_NONE_MATCH,
    responses={**_NOT_MODIFIED, **problems.responses(404)},
)
def get_architecture(request: Request, name: Annotated[str, Path(examples=["resnet20"])]) -> Response:
    """One builtin architecture."""
    if name not in architectures():
        raise NotFound(f"there is no architecture {name!r}", hint=suggestion(name, architectures()))
    return cacheable(request, Architecture.model_validate(architectures()[name].document()).model_dump_json().encode())
