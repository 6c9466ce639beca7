"""What headers ask for."""

import base64
import hashlib
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from api.http import conditional
from api.http.conditional import Digests
from core.errors import DigestMismatch, MalformedRequest

CONTENT = b"some bytes"


def _digest(algorithm: str, content: bytes = CONTENT) -> str:
    return f"{algorithm}=:{base64.b64encode(hashlib.new(algorithm.replace('-', ''), content).digest()).decode()}:"


@pytest.mark.parametrize(
    ("header", "same"),
    [(None, False), ('"7"', True), ('W/"7"', True), ('"1", "7"', True), ("*", True), ('"17"', False), ("7", False), ('"1"', False)],
)
def test_etags(header: str | None, same: bool) -> None:
    assert conditional.matches(header, '"7"') is same


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("wait=5", 5),
        ("wait=500", 60),
        ("respond-async, wait=10", 10),
        ("wait = 3 ; x=1", 3),
        ('wait="4"', 4),
        ("wait=0", 0),
        ("wait=-1", None),
        ("wait", None),
        ("wait=soon", None),
        ("return=minimal", None),
        ("", None),
    ],
)
def test_preferences(header: str, seconds: float | None) -> None:
    assert conditional.wait_seconds(Headers({"prefer": header})) == seconds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("header", ["content-digest", "repr-digest"])
@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512"])
def test_digests_are_verified(header: str, algorithm: str, file: Path) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    Digests.sent(Headers({header: _digest(algorithm)})).check(sha256, file)
    with pytest.raises(DigestMismatch, match=algorithm):
        Digests.sent(Headers({header: _digest(algorithm, b"other bytes")})).check(sha256, file)


def test_one_wrong_digest_among_right_ones_is_a_mismatch(file: Path) -> None:
    sent = Digests.sent(Headers({"content-digest": f"{_digest('sha-256')}, {_digest('sha-512', b'x')}"}))
    with pytest.raises(DigestMismatch):
        sent.check(hashlib.sha256(CONTENT).hexdigest(), file)


def test_insecure_algorithms_are_ignored_as_the_rfc_asks() -> None:
    assert Digests.sent(Headers({"content-digest": "md5=:AAAA:"})).expected == {}


@pytest.mark.parametrize("header", ["sha-256=abc", "sha-256=:AAAA:", "sha-256=:%%%:", "nonsense", "sha-256=:" + "A" * 43 + ":"])
def test_what_is_no_digest_is_said_to_be_none(header: str) -> None:
    with pytest.raises(MalformedRequest):
        Digests.sent(Headers({"content-digest": header}))


def test_headers_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(MalformedRequest, match="contradict"):
        Digests.sent(Headers({"content-digest": _digest("sha-256"), "repr-digest": _digest("sha-256", b"x")}))
