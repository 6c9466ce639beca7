"""Who has no right, or too many wishes."""

import contextlib
import io
import json
import zipfile
from random import Random

from tests.attack.target import Target

SECONDS = 3.0
_PATHS = (
    ("POST", "/v1/uploads"),
    ("POST", "/v1/artifacts/art_1/promote"),
    ("POST", "/v1/models"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/jobs/job_1/retry"),
    ("PUT", "/v1/uploads/upl_1/parts/1"),
    ("GET", "/v1/jobs"),
)


def bodies_before_rights(target: Target, random: Random) -> None:
    powerless = target.key("powerless", scopes=[])

    def pour(_: int) -> None:
        method, path = random.choice(_PATHS)
        with target.open() as connection, contextlib.suppress(OSError):
            length = f"Content-Length: {100 * 2**20}"
            connection.sendall(target.head(method, path, "Content-Type: application/json", length, key=powerless))
            for _ in range(100):
                connection.sendall(b"[" * 2**20)

    target.repeat(pour, seconds=SECONDS, threads=6)
    assert target.call("POST", "/v1/uploads", b"{}", key=powerless)[0] == 403


def guessed_keys(target: Target, random: Random) -> None:
    def guess(_: int) -> None:
        token = f"mp_{random.randrange(10**26):026d}_{'A' * 43}"
        assert target.call("GET", "/v1/jobs", key=token)[0] in (401, 429)

    target.repeat(guess, seconds=SECONDS, threads=8)


def one_key_floods(target: Target, random: Random) -> None:
    """An innocent is served beside it."""
    paths = ["/v1/models?limit=100", "/v1/jobs?limit=100", "/v1/version", "/readyz", "/v1/jobs/job_nothing"]
    target.repeat(lambda _: target.call("GET", random.choice(paths)), seconds=SECONDS, threads=12)
    assert target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200


def a_model_of_tiny_fields(target: Target, random: Random) -> None:
    """Sent once, and named by sixty bytes as often as one likes."""
    graph = b"\x12\x00" * (4_000_000 + random.randrange(1000))
    length, coded = len(graph), b""
    while length:
        coded += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
    _again(target, b"\x08\x08\x3a" + coded + graph + b"\x42\x02\x10\x11", "models")


def an_archive_of_tiny_members(target: Target, random: Random) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(40_000):
            archive.writestr(f"{random.random()}_{number}.npy", b"")
    _again(target, file.getvalue(), "datasets")


def _again(target: Target, content: bytes, kind: str) -> None:
    upload = target.made("/v1/uploads")
    target.call("PUT", f"{upload['urls']['self']}/parts/1", content, content_type="application/octet-stream")
    assert target.call("POST", upload["urls"]["complete"])[0] == 200
    body = json.dumps({"upload_id": upload["id"]}).encode()
    target.repeat(lambda _: target.call("POST", f"/v1/{kind}", body), seconds=SECONDS, threads=8)


def many_parts(target: Target, random: Random) -> None:
    """Each of them a transaction."""
    upload = target.made("/v1/uploads")
    numbers = iter(range(1, 10_001))

    def put(_: int) -> None:
        number = next(numbers, None) or random.randrange(1, 10_001)
        target.call("PUT", f"{upload['urls']['self']}/parts/{number}", b"x" * 100, content_type="application/octet-stream")

    target.repeat(put, seconds=SECONDS, threads=8)
    target.call("DELETE", upload["urls"]["self"])


ATTACKS = (
    bodies_before_rights,
    guessed_keys,
    one_key_floods,
    a_model_of_tiny_fields,
    an_archive_of_tiny_members,
    many_parts,
)
