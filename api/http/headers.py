"""Request headers that routes read without FastAPI's help, as the OpenAPI document shows them."""

from typing import Any

from api.http.conditional import DIGEST_PATTERN

_DESCRIPTIONS = {
    "Content-Digest": "`sha-256=:<base64>:` (RFC 9530); the upload is refused where its bytes are not these.",
    "If-Match": "An ETag; any other state is answered with 412.",
    "If-None-Match": "An ETag that the client has; the same state is answered with 304.",
    "If-Range": "An ETag; `Range` is heeded only where the file is still the same.",
    "Range": "`bytes=first-last`, `bytes=first-`, `bytes=-count`, or several of them.",
}


_PATTERNS: dict[str, str] = {
    "Content-Digest": DIGEST_PATTERN,
}


def documented(*names: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads these headers."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": False,
                "description": _DESCRIPTIONS[name],
                "schema": {"type": "string"} | ({"pattern": _PATTERNS[name]} if name in _PATTERNS else {}),
            }
            for name in names
        ]
    }
