"""Bodies that come slowly, in crumbs, packed, or to routes that take none."""

import gzip
import time
from random import Random

from tests.attack.connections import many, send
from tests.attack.target import Target

SECONDS = 3.0
_FILE, _DOCUMENT = "Content-Type: application/octet-stream", "Content-Type: application/json"


def slow_bodies_everywhere(target: Target, random: Random) -> None:
    """To every route that takes one."""
    upload = target.made("/v1/uploads")["id"]
    routes = [
        ("POST", "/v1/models?format=onnx", _FILE),
        ("POST", "/v1/datasets?format=npz", _FILE),
        ("PUT", f"/v1/uploads/{upload}/parts/1", _FILE),
        ("POST", f"/v1/uploads/{upload}/complete", _DOCUMENT),
        *(("POST", path, _DOCUMENT) for path in ("/v1/models", "/v1/datasets", "/v1/jobs", "/v1/jobs/validate", "/v1/uploads")),
    ]
    with many(target, 600) as connections:
        for connection in connections:
            connection.settimeout(0.2)
            verb, path, kind = random.choice(routes)
            send(connection, target.head(verb, path, kind, "Content-Length: 900000") + b"[1," * random.randrange(1, 20_000))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for connection in random.sample(connections, 200):
                send(connection, b"1,")
            time.sleep(0.02)
        assert target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200


def chunks_of_a_byte(target: Target, random: Random) -> None:
    """Or of a byte and a long extension, or with header fields without end after them."""
    fields = b"X: 1\r\n" * 10_000
    crumbs = [b"1\r\n1\r\n" * 40_000, (b"1;" + b"a" * 1000 + b"\r\n1\r\n") * 100]

    def pour(_: int) -> None:
        with target.open() as connection:
            connection.settimeout(3)
            path, kind = random.choice([("/v1/models?format=onnx", _FILE), ("/v1/datasets?format=npz", _FILE), ("/v1/jobs", _DOCUMENT)])
            send(connection, target.head("POST", path, kind, "Transfer-Encoding: chunked"))
            piece = random.choice([*crumbs, fields])
            if piece is fields:
                send(connection, b"1\r\n1\r\n0\r\n")
            for _ in range(30):
                if not send(connection, piece):
                    return

    target.repeat(pour, seconds=SECONDS, threads=6)


def packed_and_mixed_bodies(target: Target, random: Random) -> None:
    """Compressed, or forms of many parts: neither is undone."""
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' % number for number in range(15_000)) + b"--x--"
    packed = gzip.compress(b"[" * 2**24)
    paths = ["/v1/jobs", "/v1/models?format=onnx", "/v1/datasets", "/v1/uploads"]

    def ask(_: int) -> None:
        if random.random() < 0.5:
            kind = random.choice(["application/json", "application/octet-stream", "application/x-www-form-urlencoded"])
            coding = random.choice(["gzip", "br", "gzip, gzip", "x" * 1000])
            status = target.call("POST", random.choice(paths), packed, content_type=kind, **{"Content-Encoding": coding})[0]
        else:
            status = target.call("POST", random.choice(paths), parts, content_type="multipart/form-data; boundary=x")[0]
        assert status in (413, 415, 429), f"{status} for a body that cannot be read"

    target.repeat(ask, seconds=SECONDS, threads=8)


ATTACKS = (slow_bodies_everywhere, chunks_of_a_byte, packed_and_mixed_bodies)
