"""Conditional requests, preferences and digests: what the client's headers ask for (RFC 9110, RFC 7240, RFC 9530)."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers

from api.http.errors import EtagMismatch
from core.errors import DigestMismatch, MalformedRequest

_TAGS = re.compile(r'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_DIGEST = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*(?:;[^,]*)?")
_MEMBER = r"(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:|(?!sha-256=|sha-512=)[a-z*][a-z0-9_.*-]*=:[A-Za-z0-9+/=]*:)[ \t]*(;[^,]*)?"
DIGEST_PATTERN = rf"^[ \t]*{_MEMBER}([ \t]*,[ \t]*{_MEMBER})*$"
"""What `Content-Digest` may be, for the documentation: what `Digests.sent` reads."""
_DIGEST_BYTES = {"sha-256": 32, "sha-512": 64}
_CODED = re.compile(r"-(?:br|gzip)$")
MAX_WAIT_SECONDS = 60.0


def tagged(etag: str, coding: str) -> str:
    """The tag of the same state in a content coding: other bytes have another strong tag (RFC 9110, section 8.8.3.3)."""
    return f'{etag[:-1]}-{coding}"'


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` or `If-Match` list names this strong tag, in whichever coding its bytes were sent."""
    if header is None:
        return False
    return header.strip() == "*" or _CODED.sub("", etag.strip('"')) in (_CODED.sub("", tag) for tag in _TAGS.findall(header))


def not_modified(headers: Headers, etag: str) -> bool:
    """Whether the client already has this representation. Raises 412 `etag_mismatch` when it insists on another one."""
    if_match = headers.get("if-match")
    if if_match is not None and not matches(if_match, etag):
        raise EtagMismatch(f"the current ETag is {etag}", hint="fetch the resource again")
    return matches(headers.get("if-none-match"), etag)


def wait_seconds(headers: Headers) -> float | None:
    """N of `Prefer: wait=N`, at most a minute; None where nothing is preferred. An unknown preference is ignored, as RFC 7240 asks."""
    for preference in ",".join(headers.getlist("prefer")).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait" and re.fullmatch(r"[0-9]{1,9}", value.strip().strip('"')):
            return min(float(value.strip().strip('"')), MAX_WAIT_SECONDS)
    return None


@dataclass(frozen=True)
class Digests:
    """Digests that the body must have, by algorithm."""

    expected: dict[str, bytes]

    @classmethod
    def sent(cls, headers: Headers) -> "Digests":
        """What `Content-Digest` and `Repr-Digest` promise; both mean the same bytes as no content coding is accepted.

        Algorithms that RFC 9530 calls insecure are ignored. Raises `malformed_request` for what is not a digest at all.
        """
        expected: dict[str, bytes] = {}
        for name in ("content-digest", "repr-digest"):
            for member in ",".join(headers.getlist(name)).split(","):
                if not member.strip():
                    continue
                found = _DIGEST.fullmatch(member)
                if found is None:
                    raise MalformedRequest(f"{name} is not a digest", hint=f"send {name}: sha-256=:<base64>:")
                algorithm, text = found.groups()
                if algorithm not in _DIGEST_BYTES:
                    continue
                try:
                    value = base64.b64decode(text, validate=True)
                except binascii.Error:
                    value = b""
                if len(value) != _DIGEST_BYTES[algorithm]:
                    raise MalformedRequest(f"{name}: {algorithm} has {_DIGEST_BYTES[algorithm]} bytes in base64")
                if expected.setdefault(algorithm, value) != value:
                    raise MalformedRequest("Content-Digest and Repr-Digest contradict each other")
        return cls(expected)

    def check(self, sha256: str, path: Path) -> None:
        """Compare with a received file. Raises 422 `digest_mismatch` where its bytes are not the bytes that were promised."""
        for algorithm, promised in self.expected.items():
            if algorithm == "sha-256":
                computed = bytes.fromhex(sha256)
            else:
                with path.open("rb") as file:
                    computed = hashlib.file_digest(file, algorithm.replace("-", "")).digest()
            if computed != promised:
                raise DigestMismatch(
                    f"the body's {algorithm} is {computed.hex()}, Content-Digest says {promised.hex()}",
                    hint="the bytes changed on the way: send them again",
                )


def digest_header(sha256_hex: str) -> str:
    """A value for `Repr-Digest` and `Content-Digest`."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256_hex)).decode()}:"
