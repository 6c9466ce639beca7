"""The service connects to public addresses alone, whatever a name means a moment later, and takes no endless answer."""

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from core import egress
from core.egress import EgressFailed, EgressRefused, Policy
from tests.listening import Listening, Quiet

LOCAL = Policy(networks=(ipaddress.ip_network("127.0.0.0/8"),), plain_http=True, connect_seconds=2)

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.5",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "100::1",
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.32.0.1",
    "2606:4700::1111",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("text", PRIVATE)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not egress.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are(text: str) -> None:
    assert egress.is_public(ipaddress.ip_address(text))


def get(url: str, policy: Policy = LOCAL, **options: Any) -> tuple[int, bytes]:
    with egress.request(
        "GET", url, policy=policy, limit_bytes=options.pop("limit_bytes", 1000), seconds=options.pop("seconds", 5), **options
    ) as answer:
        return answer.status, answer.read()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "file:///etc/passwd", "gopher://x/", "https://", "https://user:secret@example.org/", "https://example.org:22/",
        "https://example.org:99999/", "https://[::1", "https://exa mple.org/", "https://example.org/\r\nX: y", "https://ex\u00e4mple.org/", "https://a%2eb/", "https://a\\@b/", "//b/",
        "https://example.org/" + "a" * 3000,
    ],
)  # fmt: skip
def test_urls_that_are_refused_before_anything_is_resolved(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("resolved"))
    with pytest.raises(EgressRefused):
        get(url, Policy())


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "017700000001", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"]
)
def test_names_and_spellings_of_private_addresses_are_refused(host: str) -> None:
    with pytest.raises(EgressRefused) as caught:
        get(f"https://{host}/", Policy())
    assert caught.value.message == f"{host.strip('[]')!r} is not a public address that this service connects to"


class Server:
    """A server on loopback that answers by the path and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(Quiet):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("X-Secret")))
                kind, _, rest = self.path[1:].partition("/")
                if kind == "drip":  # a head that never ends, and never stops
                    with contextlib.suppress(OSError):
                        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                        while not outer.stop.wait(0.05):
                            self.wfile.write(b"x")
                    self.close_connection = True
                    return
                if kind == "to":
                    self.send_response(302)
                    self.send_header("Location", rest)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content = b"x" * (5000 if kind == "large" else 10)
                self.send_response(200)
                if kind == "gzip":
                    self.send_header("Content-Encoding", "gzip")
                if kind != "endless":
                    self.send_header("Content-Length", str(len(content) + (5 if kind == "short" else 0)))
                self.end_headers()
                try:
                    self.wfile.write(content)
                    while kind == "endless" and not outer.stop.wait(0.05):
                        self.wfile.write(b"x")
                except OSError:
                    pass
                self.close_connection = True

            do_POST = do_GET

        self.stop = threading.Event()
        self._listening = Listening(Handler)
        self.url = self._listening.url

    def close(self) -> None:
        self.stop.set()
        self._listening.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_an_answer_is_read_within_its_limits(server: Server) -> None:
    assert get(f"{server.url}/plain") == (200, b"x" * 10)
    with pytest.raises(EgressRefused, match="more than 1000"):
        get(f"{server.url}/large")
    with pytest.raises(EgressFailed, match=r"ended after 10 of 15|broke"):
        get(f"{server.url}/short")
    with pytest.raises(EgressRefused, match="compressed"):
        get(f"{server.url}/gzip")
    with pytest.raises(EgressFailed, match="too slowly"):
        get(f"{server.url}/endless", seconds=0.4)
    with pytest.raises(EgressFailed, match="does not answer"):
        get("http://127.0.0.1:1/")


def test_a_server_that_drips_holds_nobody(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with a head that never ends, nor with many addresses that do not answer."""
    started = time.monotonic()
    with pytest.raises(EgressFailed):
        get(f"{server.url}/drip", seconds=0.4)
    assert time.monotonic() - started < 1.5
    with socket.socket() as silent:  # its queue is full: further connections wait
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", silent.getsockname()[1]))] * 50
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        started = time.monotonic()
        with pytest.raises(EgressFailed):
            get(
                f"http://many.example:{silent.getsockname()[1]}/", Policy(LOCAL.networks, plain_http=True, connect_seconds=0.2), seconds=0.5
            )
        assert time.monotonic() - started < 1.5
        for filler in fillers:
            filler.close()


def test_redirects_are_followed_as_far_as_allowed_and_checked_each_time(server: Server) -> None:
    url = f"{server.url}/to//to//plain"
    assert get(url, redirects=0)[0] == 302
    assert get(url, redirects=1)[0] == 302
    assert get(url, redirects=2, headers={"X-Secret": "s"}) == (200, b"x" * 10)
    assert {secret for _, secret in server.asked[-3:]} == {"s"}
    for target in ("http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd", "http://[::1]:80/"):
        with pytest.raises(EgressRefused):
            get(f"{server.url}/to/{target}", redirects=3)
    other = server.url.replace("127.0.0.1", "127.0.0.2").replace("http://127.0.0.2", "http://localhost")
    get(f"{server.url}/to/{other}/plain", redirects=1, headers={"X-Secret": "s"})
    assert server.asked[-1] == ("/plain", None)


def test_the_connection_goes_to_the_address_that_was_checked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means a public address when it is looked at, and loopback a moment later."""
    port = int(server.url.rpartition(":")[2])
    asked: list[str] = []
    connected: list[Any] = []

    def rebinding(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34" if len(asked) == 1 else "127.0.0.1", port))]

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(EgressFailed):
        get(f"http://rebind.example:{port}/", Policy(plain_http=True, ports=frozenset({port})))
    assert (asked, connected) == (["rebind.example"], [("93.184.216.34", port)])


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(EgressRefused):
        get("https://both.example/", Policy())


def test_a_network_that_is_named_opens_itself_and_nothing_else() -> None:
    policy = Policy(networks=(ipaddress.ip_network("10.1.0.0/16"),))
    assert policy.allows(ipaddress.ip_address("10.1.2.3"))
    assert not policy.allows(ipaddress.ip_address("10.2.2.3"))
    assert not policy.allows(ipaddress.ip_address("127.0.0.1"))


def test_proxies_of_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(f"{server.url}/plain")[0] == 200
