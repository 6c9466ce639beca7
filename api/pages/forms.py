"""Forms that pages send: read within a bound, and only from pages that this browser was shown."""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from api.front import browser
from api.http.errors import RequestTooLarge, UnsupportedMediaType
from core.errors import MalformedRequest

MOST_BYTES = 256 * 1024
MOST_FIELDS = 2000
_TYPE = "application/x-www-form-urlencoded"
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field


class Form(dict[str, list[str]]):
    """The fields of a form; one may be there several times."""

    def text(self, name: str) -> str:
        """The last value of a field without blanks around it, empty where it was not sent."""
        return self.get(name, [""])[-1].strip()


async def read_form(request: Request) -> Form:
    """The fields of a form that a page of this service sent. Raises `cross_origin_refused` for any other, `request_too_large`,
    `malformed_request` and `unsupported_media_type`.

    Programs that send a key of their own need no token: no browser adds that header by itself.
    """
    body = await _body(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and media_type != _TYPE:
        raise UnsupportedMediaType(f"a form is {_TYPE}, not {media_type[:80]!r}")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise MalformedRequest("the form cannot be read", hint="reload the page and send the form again") from None
    form = Form()
    for name, value in pairs:
        form.setdefault(name, []).append(value.replace("\r\n", "\n"))
    state = request.scope["state"]
    by_key = "principal" in state and state["principal"].key_id is not None and "browser" not in state
    if not by_key:
        secret = state.get("browser") or browser.cookie(request.scope, browser.ANYONE)
        browser.check_form(request.scope, secret, form.text(TOKEN_FIELD))
    return form


async def _body(request: Request) -> bytes:
    held = getattr(request.state, "held", None)
    announced = request.headers.get("content-length", "")
    body = b""
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        raise _too_large()
    async for chunk in request.stream():
        if len(body) + len(chunk) > MOST_BYTES:
            raise _too_large()
        if held is not None:
            held.add_document(len(chunk))
        body += chunk
    return body


def _too_large() -> RequestTooLarge:
    return RequestTooLarge(f"a form may have at most {MOST_BYTES} bytes")


Sent = Annotated[Form, Depends(read_form)]
