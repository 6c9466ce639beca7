"""Requests without a body whose heads mean no good: odd methods, ranges, cursors, conditions, and what is no request at all."""

import contextlib
from random import Random

from tests.attack.connections import send
from tests.attack.target import Target

SECONDS = 3.0


def what_is_no_request(target: Target, random: Random) -> None:
    """Garbage, other protocols, and upgrades that nobody offers."""
    upgrade = target.head(
        "GET", "/v1/jobs", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="
    )
    pieces = [
        b"\x16\x03\x01\x02\x00",
        b"\x00" * 100,
        b"GET  /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 500,
        b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
        target.head("POST", "/v1/jobs", "Content-Length: -1"),
        target.head("POST", "/v1/jobs", "Content-Length: 5", "Transfer-Encoding: chunked"),
        target.head("GET", "/%ff%fe%00"),
        target.head("CONNECT", "a:1"),
        target.head("BREW", "/livez"),
        *[upgrade] * 4,
    ]

    def go(_: int) -> None:
        with target.open() as connection:
            connection.settimeout(1)
            for _ in range(5):
                if not send(connection, random.choice(pieces)):
                    return
                with contextlib.suppress(OSError):
                    connection.recv(65536)

    target.repeat(go, seconds=SECONDS, threads=8)


def odd_questions(target: Target, random: Random) -> None:
    """Every method, every public document, ranges, cursors and conditions of 30 kB."""
    job_id = target.job()
    places = [
        f"/v1/models/{target.model}/content",
        f"/v1/jobs/{job_id}/logs",
        f"/v1/jobs/{job_id}",
        "/openapi.json",
        "/docs",
        "/metrics",
        "/v1/usage",
    ]
    cursors = ["A" * 30_000, "%00", "evt_" + "0" * 26 + "9" * 15, "%F0%9F%92%A9", "-1", "9" * 400, "../../etc"]
    asked = ["/v1/jobs?after=", "/v1/jobs/", "/v1/jobs?status=", "/v1/jobs?limit=", "/v1/jobs?created_after=", "/v1/jobs?label="]
    asked += [f"/v1/jobs/{job_id}/events?after=", "/v1/datasets/", "/v1/models?after="]
    ranges = ["bytes=" + ",".join(f"{at}-{at}" for at in range(5000)), "bytes=0-0", "bytes=-1", "bytes=5-1", "bytes=" + "0" * 5000 + "-"]
    values = [",".join(f'"{tag}"' for tag in range(7000)), '"' * 30_000, "W/" * 15_000, "wait=" + "9" * 300, "a," * 15_000, "=" * 30_000]
    names = ["If-None-Match", "If-Match", "If-Range", "Prefer", "Last-Event-ID", "Content-Digest", "Idempotency-Key", "Cookie"]

    def ask(_: int) -> None:
        kind = random.randrange(4)
        if kind == 0:
            target.call(
                random.choice(["HEAD", "OPTIONS", "TRACE", "PATCH", "DELETE"]), random.choice(["/v1/jobs", "/livez", "/", "/nothing"])
            )
        elif kind == 1:
            target.call("GET", random.choice(asked) + random.choice(cursors))
        elif kind == 2:
            target.call("GET", random.choice(places), Range=random.choice(ranges))
        else:
            target.call("GET", random.choice(places), **{random.choice(names): random.choice(values)})

    target.repeat(ask, seconds=SECONDS, threads=8)
    target.call("POST", f"/v1/jobs/{job_id}/cancel")


ATTACKS = (what_is_no_request, odd_questions)
