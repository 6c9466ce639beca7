"""Reading a JSON or YAML document from a stranger: bounded in bytes, values, depth, keys and time, and made of JSON types only."""

import itertools
import json
import math
import re
import time
from typing import Any, ClassVar

import yaml
from fastapi import Request

from api.http.errors import RequestTooLarge, UnsupportedMediaType
from core.errors import MalformedRequest

MAX_YAML_BYTES = 128 * 1024
"""A YAML body may have fewer bytes than a JSON one, because reading it costs a hundred times as much."""
QUICK_YAML_BYTES = 4 * 1024
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""Values in a document, keys included, after its YAML aliases are expanded."""
MAX_METADATA_VALUES = 200_000
"""Values in a JSON document that carries metadata, which may name 100,000 classes."""
MAX_KEY_CHARACTERS = 1000
MAX_SECONDS = 5.0
"""Time that reading one document may take."""
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
        document = _from_json(text, most_values, what) if is_json else _from_yaml(text)
    except RecursionError:
        raise _too_deep() from None
    _check(document, most_values)
    return document


def _from_json(text: str, most_values: int, what: str) -> Any:
    keys = 0

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs) + 1
        if keys > most_values:
            raise _too_many(most_values)
        return _unique(pairs)

    if text.count(",") > most_values and _commas(text) > most_values:
        # Told before anything is built of them.
        raise _too_many(most_values)
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:80]!r} stands twice in one object")
            seen.add(key)
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_NUMBER = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no` stays a word, a date stays a string, `1e-3` is a number; one key stands once; no other tags."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: ClassVar = {}
    depth = 0
    nodes = 0
    deadline = math.inf

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Stop at the first value that lies too deep or is one too many, before the rest is read."""
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise _too_deep()
        if self.nodes > MAX_VALUES:
            raise _too_many(MAX_VALUES)
        if time.monotonic() > self.deadline:
            raise MalformedRequest(f"reading the document takes more than {MAX_SECONDS:g} seconds", hint="send it as JSON")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        """A mapping whose keys are strings."""
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("a !!map tag stands before something else")
        pairs = [(self.construct_object(key, deep=True), self.construct_object(value, deep=True)) for key, value in node.value]
        if not all(isinstance(key, str) for key, _ in pairs):
            raise ValueError("a key is not a string")
        return _unique(pairs)

    def sequence(self, node: yaml.Node) -> list[Any]:
        """A sequence, complete before it is handed on."""
        if not isinstance(node, yaml.SequenceNode):
            raise ValueError("a !!seq tag stands before something else")
        return [self.construct_object(item, deep=True) for item in node.value]

    def text(self, node: yaml.Node) -> str:
        """A scalar as it is written."""
        if not isinstance(node, yaml.ScalarNode):
            raise ValueError("a tag of a scalar stands before something else")
        return str(node.value)

    def number(self, node: yaml.Node) -> int | float:
        """An integer in decimal, octal or hexadecimal, or a float."""
        text = self.text(node)
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{text!r} is not a number")
        if text[:2] in ("0o", "0x"):
            return int(text, 0)
        return float(text) if set(text) & set(".eE") else int(text)

    def unknown(self, node: yaml.Node) -> Any:
        """Any other tag is refused."""
        raise ValueError(f"the tag {node.tag!r} has no place in a document of JSON types")

    def boolean(self, node: yaml.Node) -> bool:
        """True or false."""
        text = self.text(node)
        if not _BOOLEAN.fullmatch(text):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(rf"^(?:{_BOOLEAN.pattern})$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{_NUMBER.pattern})$"), list("-+.0123456789"))
for _tag, _construct in {
    "null": lambda loader, node: None,
    "bool": _Loader.boolean,
    "int": _Loader.number,
    "float": _Loader.number,
    "str": _Loader.text,
    "seq": _Loader.sequence,
    "map": _Loader.mapping,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_Loader.add_constructor(None, _Loader.unknown)


def _from_yaml(text: str) -> Any:
    try:
        loader = _Loader(text)
        loader.deadline = time.monotonic() + MAX_SECONDS
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded_size(node, {})
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1} column {mark.column + 1}" if mark else ""
        hint = "indent with spaces" if "\\t" in (error.problem or "") else None
        raise MalformedRequest(f"the body is not YAML: {error.problem}{where}", hint=hint) from None
    except (yaml.YAMLError, ValueError) as error:
        raise MalformedRequest(f"the body is not usable YAML: {error}") from None


def _expanded_size(node: yaml.Node, known: dict[int, int]) -> int:
    """Number of values below `node` once every alias is written out; an alias is counted without being expanded."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    size = known.get(id(node), 0)
    if size < 0:
        raise MalformedRequest("an alias contains itself")
    if size == 0:
        known[id(node)] = -1
        children = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        for child in children:
            size += _expanded_size(child, known)
            if size > MAX_VALUES:
                raise MalformedRequest(f"the document holds more than {MAX_VALUES} values once its aliases are expanded")
        known[id(node)] = size = size + 1
    return size


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
                raise _too_many(most_values)
        count += len(below)
        level = below
        if not level:
            return
    raise _too_deep()


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


def _too_deep() -> MalformedRequest:
    return MalformedRequest(f"the document is nested deeper than {MAX_DEPTH} levels")


def _too_many(most_values: int) -> MalformedRequest:
    return MalformedRequest(f"the document holds more than {most_values} values")
