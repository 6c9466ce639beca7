"""The one way out: HTTP requests of this service to addresses that clients name, for imports, webhooks and trackers.

A name is resolved once; every address that it has must be a public one, and the connection goes to an address that was checked, so that a
name cannot mean another host a moment later. TLS is verified against the name. No proxy of the environment is used, no cookie is kept, no
redirect is followed but where the caller allows some, and each of them goes through the same checks. Python's `is_global` is true for
addresses that embed private ones (NAT64, 6to4, Teredo, IPv4-compatible): these are unpacked or refused.
"""

import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import ClassVar
from urllib.parse import SplitResult, urljoin, urlsplit

from core.errors import ServiceError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = frozenset({443, 8443})
_MAX_URL = 2048
_CHUNK = 1 << 16
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "fec0::/10", "5f00::/16")
)
"""Special ranges that `is_global` lets through in some version of Python, or that stand for other networks."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PLAIN = re.compile(r"[\x21-\x7e]+")


class EgressRefused(ServiceError):
    """An address that the service does not connect to, or an answer that it does not take."""

    code: ClassVar[str] = "egress_refused"
    status: ClassVar[int] = 422
    title: ClassVar[str] = "Address refused"


class EgressFailed(ServiceError):
    """The other side did not answer, or not as asked; it may another time."""

    code: ClassVar[str] = "egress_failed"
    status: ClassVar[int] = 502
    title: ClassVar[str] = "The other server failed"


@dataclass(frozen=True)
class Policy:
    """What an operator allows beyond public HTTPS."""

    networks: tuple[Network, ...] = ()
    """Private networks that may be reached all the same; each allows itself and nothing else."""
    plain_http: bool = False
    """Whether `http:` may be used, on port 80 as well."""
    ports: frozenset[int] = _PORTS
    """Ports that may be reached; in the networks above every port may."""
    connect_seconds: float = 10.0

    def allows(self, address: Address) -> bool:
        """Whether this address may be connected to."""
        return self.named(address) or is_public(address)

    def named(self, address: Address) -> bool:
        """Whether the operator named a network with this address."""
        return any(address in network for network in self.networks if network.version == address.version)


@dataclass
class Answer:
    """A response whose body is read piece by piece, within a limit and a deadline."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    url: str
    """Where it came from, after redirects."""
    _response: HTTPResponse = field(repr=False)
    _limit_bytes: int = field(repr=False)
    _deadline: float = field(repr=False)

    @property
    def size_bytes(self) -> int | None:
        """Length of the body, where the other side states it."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isascii() and length.isdecimal() else None

    def chunks(self) -> Iterator[bytes]:
        """The body. Raises `egress_refused` past the limit, `egress_failed` past the deadline and where it ends early."""
        read = 0
        while True:
            if time.monotonic() > self._deadline:
                raise EgressFailed("the other server sent its answer too slowly", hint="try again, or upload the file")
            try:
                part = self._response.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                raise EgressFailed(f"the connection broke: {type(error).__name__}", hint="try again") from error
            if not part:
                break
            read += len(part)
            if read > self._limit_bytes:
                raise EgressRefused(f"the answer has more than {self._limit_bytes} bytes")
            yield part
        if self.size_bytes is not None and read != self.size_bytes:
            raise EgressFailed(f"the answer ended after {read} of {self.size_bytes} bytes", hint="try again")

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, also what it embeds."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address in _SIX_TO_FOUR:
            return is_public(ipaddress.IPv4Address((int(address) >> 80) & 0xFFFFFFFF))
    special = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback or address.is_link_local
    if special and address not in _NAT64:
        return False
    return address.is_global and not any(address in network for network in _REFUSED if network.version == address.version)


@contextmanager
def request(
    method: str,
    url: str,
    *,
    policy: Policy,
    limit_bytes: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] = b"",
    redirects: int = 0,
) -> Iterator[Answer]:
    """One request to a URL that a client named.

    Args:
        method: `GET`, `POST`, `PUT` or `PATCH`.
        url: `https:`, without user information; `http:` where the policy has it.
        policy: What the operator allows.
        limit_bytes: Longest body of the answer.
        seconds: How long everything may take, connecting and the body included.
        headers: Of the request; not sent to another host after a redirect.
        body: Of the request; pieces of it need a `Content-Length` among the headers.
        redirects: How many redirects of a `GET` are followed; an answer that redirects further is handed over as it is.

    Raises:
        EgressRefused: The URL or one of its addresses is not allowed.
        EgressFailed: The name has no address, nobody answers, or TLS fails.
    """
    deadline = time.monotonic() + seconds
    sent = dict(headers or {})
    left = redirects if method == "GET" else 0
    while True:
        parts = check_url(url, policy)
        connection = _Checked(parts, policy, deadline)
        with ExitStack() as stack:
            stack.enter_context(closing(connection))
            stack.enter_context(_cut_off(connection, deadline))
            response = stack.enter_context(closing(_exchanged(connection, method, parts, sent, body)))
            given = {name.lower(): value for name, value in response.getheaders()}
            target = given.get("location")
            if response.status in _REDIRECTS and target and left:
                following = urljoin(url, target)
                if urlsplit(following).netloc != parts.netloc:
                    sent = {}
                url, left = following, left - 1
                continue
            if given.get("content-encoding", "identity").lower() != "identity":
                raise EgressRefused("the answer is compressed, which was not asked for")
            yield Answer(response.status, given, url, response, limit_bytes, deadline)
            return


def check_url(url: str, policy: Policy) -> SplitResult:
    """The parts of a URL that may be requested, as far as it shows before its name is resolved. Raises `egress_refused`."""
    if len(url) > _MAX_URL or not _PLAIN.fullmatch(url):
        raise EgressRefused("the URL is too long, or holds spaces or characters that are not ASCII", hint="percent-encode them")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EgressRefused("the URL cannot be read") from error
    if parts.scheme not in (("https", "http") if policy.plain_http else ("https",)) or not parts.hostname:
        raise EgressRefused(f"the URL begins with {parts.scheme[:20]!r}", hint="use https:")
    if parts.username is not None or parts.password is not None:
        raise EgressRefused("the URL holds a user name or a password", hint="use a presigned URL")
    if "%" in parts.hostname or "\\" in url:
        raise EgressRefused("the URL's host cannot be read")
    allowed = policy.ports | ({80} if policy.plain_http else frozenset())
    if not policy.networks and (port or (443 if parts.scheme == "https" else 80)) not in allowed:
        raise EgressRefused(f"port {port} is not allowed", hint=f"ports: {', '.join(map(str, sorted(allowed)))}")
    return parts


def addresses_of(host: str, port: int, policy: Policy) -> Sequence[tuple[socket.AddressFamily, Address]]:
    """The addresses of a name, all of them allowed. Raises `egress_refused`, `egress_failed`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise EgressFailed(f"the name {host[:100]!r} has no address", hint="check the URL") from error
    addresses = [(family, ipaddress.ip_address(str(given[0]))) for family, _, _, _, given in found]
    ports = policy.ports | ({80} if policy.plain_http else frozenset())
    for _, address in addresses:
        if not policy.allows(address) or not (policy.named(address) or port in ports):
            # What the address is stays untold: the answer would map the operator's network.
            raise EgressRefused(
                f"{host[:100]!r} is not a public address that this service connects to", hint="the operator sets MODELPRESS_EGRESS_NETWORKS"
            )
    if not addresses:
        raise EgressFailed(f"the name {host[:100]!r} has no address", hint="check the URL")
    return addresses


class _Checked(HTTPConnection):
    """A connection to one of the addresses that were checked, with TLS for the name."""

    def __init__(self, parts: SplitResult, policy: Policy, deadline: float) -> None:
        assert parts.hostname
        self._deadline = deadline
        self._secure = parts.scheme == "https"
        self._policy = policy
        super().__init__(parts.hostname, parts.port or (443 if self._secure else 80), timeout=policy.connect_seconds)

    def connect(self) -> None:
        failure: OSError | None = None
        for family, address in addresses_of(self.host, self.port, self._policy):
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no address answered in time")
            plain = socket.socket(family, socket.SOCK_STREAM)
            try:
                plain.settimeout(min(self._policy.connect_seconds, left))
                plain.connect((str(address), self.port))
                self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host) if self._secure else plain
                return
            except OSError as error:
                plain.close()
                failure = error
        raise failure or OSError("no address")


@contextmanager
def _cut_off(connection: HTTPConnection, deadline: float) -> Iterator[None]:
    """End whatever waits for the other side once the time is over: one that sends a byte now and then would hold this thread for ever."""

    def cut() -> None:
        # Below TLS, whose own shutdown is not for another thread.
        with suppress(OSError):
            if connection.sock is not None:
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exchanged(
    connection: _Checked, method: str, parts: SplitResult, headers: Mapping[str, str], body: bytes | Iterable[bytes]
) -> HTTPResponse:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(method, target, body or None, {"Accept-Encoding": "identity", "User-Agent": "modelpress", **headers})
        return connection.getresponse()
    except ssl.SSLError as error:
        raise EgressFailed("the other server's TLS certificate is not valid for its name", hint="check the URL") from error
    except (OSError, HTTPException) as error:
        raise EgressFailed(f"the other server does not answer: {type(error).__name__}", hint="try again") from error
