"""Pages, forms and sessions."""

import http.client
import re
from http import HTTPStatus
from random import Random
from urllib.parse import urlencode

from tests.attack.target import Target

SECONDS = 3.0
_PAGES = ("/", "/models", "/datasets", "/methods", "/keys", "/new", "/upload", "/compare", "/login", "/nothing")
_FORM = "application/x-www-form-urlencoded"


class _Browser:
    """Someone who looks at pages; logged in where `key` is given."""

    def __init__(self, target: Target, key: str | None = None) -> None:
        self._target = target
        _, headers, page = target.call("GET", "/login", Accept="text/html", Authorization="")
        self._cookies = _cookies(headers)
        self.token = _token(page)
        if key is not None:
            status, headers, _ = self.send("POST", "/login", self.form(key=key), content_type=_FORM)
            assert status == HTTPStatus.SEE_OTHER, status
            self._cookies |= _cookies(headers)

    def form(self, **fields: str) -> bytes:
        """A form as the browser sends it."""
        return urlencode({"form_token": self.token, **fields}).encode()

    def send(self, method: str, path: str, body: bytes | None = None, **more: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request of the browser."""
        cookie = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        return self._target.call(method, path, body, **{"Authorization": "", "Accept": "text/html", "Cookie": cookie, **more})


def _cookies(headers: http.client.HTTPMessage) -> dict[str, str]:
    pairs = (line.partition(";")[0].partition("=") for line in headers.get_all("Set-Cookie", []))
    return {name: value for name, _, value in pairs}


def _token(page: bytes) -> str:
    found = re.search(rb'name="form_token" value="([^"]*)"', page)
    return found[1].decode() if found else ""


def guessed_logins(target: Target, random: Random) -> None:
    browser = _Browser(target)

    def guess(_: int) -> None:
        form = browser.form(key=f"mp_{random.randrange(10**26):026d}_{'A' * 43}", next="//" * random.randrange(500))
        status = browser.send("POST", "/login", form, content_type=_FORM)[0]
        assert status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS), status

    target.repeat(guess, seconds=SECONDS, threads=8)


def pages_of_everything(target: Target, random: Random) -> None:
    """Every page, whole and in parts, with odd questions."""
    browser = _Browser(target, target.attacker)
    job = target.job()
    pages = [*_PAGES, *(f"/jobs/{job}{tab}" for tab in ("", "/settings", "/layers", "/logs", "/spec", "/events", "/graph", "/live"))]
    odd = [
        "",
        "?after=" + "9" * 400,
        "?label=" + "a:b&label=" * 200,
        "?job=" + "&job=".join([job] * 50),
        "?lines=99999999",
        "?" + "x" * 9000,
    ]

    def look(_: int) -> None:
        part = {"HX-Request": "true"} if random.random() < 0.5 else {}
        browser.send("GET", random.choice(pages) + random.choice(odd), **part)

    target.repeat(look, seconds=SECONDS, threads=8)
    target.call("POST", f"/v1/jobs/{job}/cancel")


def forms_of_nonsense(target: Target, random: Random) -> None:
    """With the right cookie, and with the right token or without it."""
    browser = _Browser(target, target.attacker)
    bodies = [
        urlencode({f"steps.{number}.method": "x" for number in range(2000)}),
        urlencode({"mode": "yaml", "yaml": "a: " + "[" * 5000}),
        urlencode({"mode": "yaml", "yaml": "x: 1\n" * 60_000, "action": "check"}),
        "&" * 100_000,
        "%" * 50_000,
        urlencode({".".join("a" * 300): "1"}),
    ]

    def send(_: int) -> None:
        body = (browser.form() + b"&" if random.random() < 0.7 else b"") + random.choice(bodies).encode()
        browser.send("POST", random.choice(["/new", "/login", "/logout?x", "/keys", "/new/check"]), body, content_type=_FORM)

    target.repeat(send, seconds=SECONDS, threads=6)


ATTACKS = (guessed_logins, pages_of_everything, forms_of_nonsense)
