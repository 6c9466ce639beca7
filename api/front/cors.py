"""Pages of other origins that may call the API, where the operator names them (Fetch standard, section 3.2).

Calls carry an API key of their own: credentials of the browser are never allowed, so that nobody's session counts.
"""

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]
ANYONE = "*"
_EXPOSED = (
    "Accept-Ranges, Content-Disposition, Content-Range, ETag, Idempotency-Replayed, Link, Location, Preference-Applied, Repr-Digest, "
    "Retry-After, X-Request-Id"
)
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_ALLOWED = (
    "Authorization, Content-Digest, Content-Type, Idempotency-Key, If-Match, If-None-Match, If-Range, Last-Event-ID, Prefer, Range, "
    "Repr-Digest, X-Request-Id"
)
_SECONDS = "600"


class Cors:
    """What the answers to other origins say. With no origin, nothing."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)
        self._anyone = ANYONE.encode() in self._origins

    def allows(self, origin: bytes | None) -> bool:
        """Whether pages of an origin may call the API."""
        return origin is not None and (self._anyone or origin in self._origins)

    def headers(self, scope: Scope, origin: bytes | None) -> Headers:
        """What an answer of the API says to a page of `origin`; nothing of it on the pages for people."""
        if not self._origins or not _is_api(scope["path"]):
            return []
        varies: Headers = [] if self._anyone else [(b"vary", b"origin")]
        if not self.allows(origin):
            return varies
        named = ANYONE.encode() if self._anyone else origin or b""
        return [*varies, (b"access-control-allow-origin", named), (b"access-control-expose-headers", _EXPOSED.encode())]

    def preflight(self, scope: Scope, headers: dict[bytes, bytes]) -> Headers | None:
        """What the answer to a question that a browser asks before a call says besides `headers`; None for any other request."""
        asked = scope["method"] == "OPTIONS" and b"access-control-request-method" in headers
        if not asked or not _is_api(scope["path"]) or not self.allows(headers.get(b"origin")):
            return None
        said = {"methods": _METHODS, "headers": _ALLOWED}
        return [
            *((f"access-control-allow-{name}".encode(), value.encode()) for name, value in said.items()),
            (b"access-control-max-age", _SECONDS.encode()),
        ]


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/openapi.json", "/livez", "/readyz")
