"""A browser without a screen: it keeps cookies, follows nothing, and sends forms as the pages have them."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.conftest import Client, Server


class Browser(httpx.Client):
    """What a person's browser sends."""

    def __init__(self, server: Server) -> None:
        super().__init__(base_url=server.url, headers={"Accept": "text/html,*/*"}, timeout=30)
        self.server = server

    @property
    def origin(self) -> str:
        return str(self.base_url).rstrip("/")

    def token(self, path: str) -> str:
        """The token of the forms of a page."""
        found = re.search(r'name="form_token" value="([0-9a-f]{96})"', self.get(path).text)
        assert found is not None, path
        return found[1]

    def fill(self, path: str, page: str, *, origin: str | None = None, **fields: Any) -> httpx.Response:
        """A form of `page`, sent to `path`."""
        return self.post(path, data={"form_token": self.token(page), **fields}, headers={"Origin": origin or self.origin})

    def log_in(self, token: str | None) -> httpx.Response:
        return self.fill("/login", "/login", key=token or "")


@pytest.fixture
def browser(server: Server, client: Client) -> Iterator[Browser]:
    """Logged in with the key of `client`."""
    with Browser(server) as opened:
        assert opened.log_in(client.token).status_code == 303
        yield opened


@pytest.fixture
def nobody(server: Server) -> Iterator[Browser]:
    """Not logged in."""
    with Browser(server) as opened:
        yield opened
