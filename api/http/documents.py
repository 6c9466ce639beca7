"""Reading a JSON or YAML document from a stranger: bounded in bytes, values, depth, keys and time, and made of JSON types only."""

import itertools
import json
import math
from typing import Any

from fastapi import Request

from api.http.document_bounds import MAX_DEPTH, MAX_VALUES, too_deep, too_many, unique
from api.http.errors import RequestTooLarge, UnsupportedMediaType
from api.http.yaml_text import from_yaml
from core.errors import MalformedRequest

MAX_YAML_BYTES = 128 * 1024
"""A YAML body may have fewer bytes than a JSON one, because reading it costs a hundred times as much."""
QUICK_YAML_BYTES = 4 * 1024
MAX_KEY_CHARACTERS = 1000
MAX_METADATA_VALUES = 200_000
"""Values in a JSON document that carries metadata, which may name 100,000 classes."""
METADATA_BYTES = 1024 * 1024
"""Largest body that carries metadata beside a few fields."""
SMALL_BYTES = 64 * 1024
"""Largest body of a route that takes a few fields."""

JSON_TYPES = frozenset({"application/json"})
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})


def is_quick(body: bytes, content_type: str | None) -> bool:
    """Whether reading the document takes a few milliseconds at most."""
    is_json = "json" in (content_type or "") or (not content_type and body.lstrip().startswith(b"{"))
    return len(body) <= (SMALL_BYTES if is_json else QUICK_YAML_BYTES)


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises `request_too_large` as soon as more than `limit` bytes have come or are announced, `rate_limited` and
    `service_unavailable` where too many others are under way."""
    refuse_compression(request)
    announced = request.headers.get("content-length", "")
    body = bytearray()
    if not (announced.isdecimal() and int(announced) > limit):
        async for chunk in request.stream():
            if len(body) + len(chunk) > limit:
                break
            request.state.held.add_document(len(chunk))
            body += chunk
        else:
            return bytes(body)
    raise RequestTooLarge(f"a document may have at most {limit} bytes")


def refuse_compression(request: Request) -> None:
    """Raise `unsupported_media_type` for a body that would have to be unpacked first."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedMediaType(f"Content-Encoding {coding[:80]!r} is not undone", hint="send the body as it is")


def parse(body: bytes, content_type: str | None, *, most_values: int = MAX_VALUES, what: str = "the body") -> Any:
    """The document as JSON types; costs what its bytes cost, whatever they hold. `what` it is stands in the sentences of errors.

    Without a content type, a body that begins with a brace is JSON and anything else YAML. Raises `malformed_request` for what
    cannot be read, is too deep, or grows too large, and `unsupported_media_type`.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type and media_type not in JSON_TYPES | YAML_TYPES and not media_type.endswith(("+json", "+yaml")):
        raise UnsupportedMediaType(f"{what} is {media_type!r}", hint="send Content-Type: application/json or application/yaml")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"{what} is not UTF-8: byte {error.start}") from None
    if not text.strip():
        raise MalformedRequest(f"{what} is empty", hint="send a JSON object or a YAML mapping")
    is_json = "json" in media_type or (not media_type and text.lstrip().startswith("{"))
    if not is_json and len(body) > MAX_YAML_BYTES:
        raise RequestTooLarge(f"a YAML document may have at most {MAX_YAML_BYTES} bytes", hint="send it as JSON")
    try:
        document = _from_json(text, most_values, what) if is_json else from_yaml(text)
    except RecursionError:
        raise too_deep() from None
    _check(document, most_values)
    return document


def _from_json(text: str, most_values: int, what: str) -> Any:
    keys = 0

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs) + 1
        if keys > most_values:
            raise too_many(most_values)
        return unique(pairs)

    if text.count(",") > most_values and _commas(text) > most_values:
        # Told before anything is built of them.
        raise too_many(most_values)
    try:
        return json.loads(text, object_pairs_hook=mapping, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"at line {error.lineno} column {error.colno}"
        raise MalformedRequest(f"{what} is not JSON: {error.msg} {where}", hint=_json_advice(text, error.pos)) from None
    except ValueError as error:
        raise MalformedRequest(f"{what} is not usable JSON: {error}") from None


def _commas(text: str) -> int:
    """Commas of a JSON text that do not stand in strings. In small pieces, since nobody else gets to run within one call."""
    plain = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
    return sum(piece.count(",") for piece in plain.split('"')[::2])


def _json_advice(text: str, position: int) -> str | None:
    """What to do about the commonest slips near a place where JSON ends to be JSON."""
    before, here = text[max(0, position - 1000) : position].rstrip()[-1:], text[position : position + 1]
    if "," in (before, here) and text[position:].lstrip(", \t\r\n")[:1] in ("}", "]"):
        return "remove the comma before the closing bracket"
    if here == "'":
        return "write names and texts in double quotes"
    if here.isalpha():
        return "write names and texts in double quotes, or send YAML with Content-Type: application/yaml"
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _check(document: Any, most_values: int) -> None:
    """Refuse what no store can keep: endless nesting, too many values, long keys, lone surrogates, NUL, numbers that are not finite."""
    level, count = [document], 1
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if not all(len(key) <= MAX_KEY_CHARACTERS for key in value):
                    raise MalformedRequest(f"a key has more than {MAX_KEY_CHARACTERS} characters")
                below += itertools.chain(value, value.values())
            elif isinstance(value, list):
                below += value
            else:
                _check_scalar(value)
            if count + len(below) > most_values:
                raise too_many(most_values)
        count += len(below)
        level = below
        if not level:
            return
    raise too_deep()


def _check_scalar(value: Any) -> None:
    if isinstance(value, str):
        if "\x00" in value or not _is_text(value):
            raise MalformedRequest("a string holds a NUL or a lone surrogate")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedRequest("a number is not finite")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise MalformedRequest("a number does not fit in 64 bits")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
