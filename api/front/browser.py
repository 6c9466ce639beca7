"""What sets a browser apart from a program: the session cookie, the forms that it sends, and the pages that it wants for answers.

A cookie counts on the pages, and on the files and reports that they link to. Nothing that changes anything under `/v1` heeds it.
"""

import hmac
import re
import secrets
from urllib.parse import quote, urlsplit

from starlette.types import Scope

from core.errors import ServiceError

PAGES = frozenset({"jobs", "models", "datasets", "methods", "compare", "keys", "new", "logout", "webhooks"})
"""First parts of the paths of pages; the start page is `/`."""
LOGIN = "/login"
STATIC = "/static/"
SESSION, ANYONE = "modelpress", "modelpress_form"
"""Names of the cookies: of who has logged in, and of any other browser that was shown a form."""
_LINKED = re.compile(r"/v1/(jobs/[^/]+/report\.(html|md|json)|(artifacts|models|datasets)/[^/]+/content)")
_WITHIN = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]{0,1000}")


class CrossOriginRefused(ServiceError):
    """A form that no page of this service sent."""

    code = "cross_origin_refused"
    status = 403
    title = "Cross-origin request refused"


def is_page(path: str) -> bool:
    """Whether people look at what is there."""
    return path in ("/", LOGIN) or path.removeprefix("/").partition("/")[0] in PAGES


def takes_session(method: str, path: str) -> bool:
    """Whether a session cookie opens the path."""
    return is_page(path) or (method == "GET" and _LINKED.fullmatch(path) is not None)


def wants_page(scope: Scope) -> bool:
    """Whether the client is a person's browser that opens an address, rather than a program."""
    headers = dict(scope["headers"])
    return b"text/html" in headers.get(b"accept", b"") and b"authorization" not in headers and takes_session(scope["method"], scope["path"])


def is_part(scope: Scope) -> bool:
    """Whether a page asks for a piece of itself."""
    return any(name == b"hx-request" for name, _ in scope["headers"])


def is_secure(scope: Scope) -> bool:
    """Whether the browser came by https."""
    return bool(scope["scheme"] == "https")


def cookie_name(scope: Scope, name: str) -> str:
    """Over https, a name that browsers accept from this host itself only, for its whole path and with `Secure` (RFC 6265bis, 4.1.3)."""
    return f"__Host-{name}" if is_secure(scope) else name


def cookie(scope: Scope, name: str) -> str:
    """The value of one of our cookies, empty where it was not sent."""
    wanted = cookie_name(scope, name)
    for header, value in scope["headers"]:
        if header == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, found = pair.strip().partition("=")
                if key == wanted:
                    return str(found)[:200]
    return ""


def set_cookie(scope: Scope, name: str, value: str, seconds: int | None = None) -> str:
    """The `Set-Cookie` header; 0 seconds takes the cookie back, None keeps it until the browser ends."""
    age = "" if seconds is None else f"; Max-Age={seconds}"
    secure = "; Secure" if is_secure(scope) else ""
    return f"{cookie_name(scope, name)}={value}; Path=/; HttpOnly; SameSite=Lax{age}{secure}"


def new_secret() -> str:
    """A value for the cookie of a browser that has not logged in."""
    return secrets.token_urlsafe(32)


def form_token(secret: str) -> str:
    """What a form carries to show that the page came from here; told from the cookie, which no other origin can read.

    Another one each time, so that the length of a packed page says nothing about it (the BREACH attack).
    """
    return _form_token(secret, secrets.token_hex(16))


def _form_token(secret: str, salt: str) -> str:
    return salt + hmac.new(secret.encode(), f"form:{salt}".encode("utf-8", "replace"), "sha256").hexdigest()


def check_form(scope: Scope, secret: str, token: str) -> None:
    """Raises `cross_origin_refused` unless the form came from a page of this service that this browser was shown."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin")
    host = headers.get(b"host", b"").decode("latin-1")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
        raise CrossOriginRefused("a page of another origin may not change anything here")
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        raise CrossOriginRefused("a page of another site may not change anything here")
    if not secret or not hmac.compare_digest(_form_token(secret, token[:32]).encode("utf-8", "replace"), token.encode("utf-8", "replace")):
        raise CrossOriginRefused("the form is not from a page that this browser was shown", hint="reload the page and send the form again")


def login_path(scope: Scope) -> str:
    """Where to log in, to come back here."""
    query = scope["query_string"].decode("latin-1")
    here = scope["path"] + (f"?{query}" if query else "")
    return LOGIN if here == "/" else f"{LOGIN}?next={quote(here, safe='')}"


def within(path: str) -> str:
    """A path of this service to go on to, or the start page where it would lead elsewhere."""
    return path if _WITHIN.fullmatch(path) else "/"
