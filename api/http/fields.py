"""Bodies of a few fields: read by the service itself, after the key's rights were checked and within a bound."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from api.http import documents
from api.http.beside import beside
from api.http.errors import InvalidBody
from api.http.validation import checked

Fields = TypeVar("Fields", bound=BaseModel)


def fields_of(model: type[Fields], most_bytes: int = documents.SMALL_BYTES) -> Callable[[Request], Awaitable[Fields]]:
    """A dependency: the body, a JSON or YAML object of at most `most_bytes`, as `model`; no body is an empty object.

    Raises `request_too_large`, `malformed_request`, `unsupported_media_type` and `invalid_body`.
    """

    async def fields(request: Request) -> Fields:
        body = await documents.read_body(request, most_bytes)
        if not body.strip():
            return checked(model, {}, InvalidBody)
        content_type = request.headers.get("content-type")
        return await beside(_read, model, body, content_type, quick=documents.is_quick(body, content_type))

    fields.model = model  # type: ignore[attr-defined]  # read by `body_of`
    return fields


def body_of(dependant: Dependant) -> type[BaseModel] | None:
    """The model of a route's body, where `fields_of` reads it."""
    own: type[BaseModel] | None = getattr(dependant.call, "model", None)
    return own or next((found for below in dependant.dependencies if (found := body_of(below)) is not None), None)


def _read(model: type[Fields], body: bytes, content_type: str | None) -> Fields:
    return checked(model, documents.parse(body, content_type), InvalidBody)
