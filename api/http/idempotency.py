"""`Idempotency-Key`: what a client asks for under one key is done once, however often the request comes."""

import json
from typing import Annotated, Any

from fastapi import Header

from core.jobs import idempotency
from core.service import Service

IdempotencyKey = Annotated[
    str | None,
    Header(
        description="1 to 255 printable ASCII characters. The same key with the same request gives the same resource for a day (with "
        "`Idempotency-Replayed: true`), with another request an error.",
        max_length=1000,
        json_schema_extra={"pattern": idempotency.PATTERN},
    ),
]


def asked_under(service: Service, key: str | None, *parts: Any) -> idempotency.Request | None:
    """The client's key with what it asks for (JSON types); the order of an object's keys does not count. Raises `malformed_request`."""
    if key is None:
        return None
    return idempotency.request(key, json.dumps(parts, sort_keys=True), keep_seconds=service.settings.idempotency_seconds)


def replayed_headers(replayed: bool) -> dict[str, str]:
    """Says that an answer is that of an earlier request."""
    return {"Idempotency-Replayed": "true"} if replayed else {}
