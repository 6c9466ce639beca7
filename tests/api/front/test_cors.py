"""Other origins: nobody by default, those that the operator names by setting, and never with a browser's own credentials."""

from collections.abc import Callable

import httpx
import pytest
from pydantic import ValidationError

from core.settings import Settings
from tests.api.conftest import Client, Server

LAB = "https://lab.example"
ASKING = {"Origin": LAB, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}


def test_no_origin_is_allowed_unless_it_is_named(client: Client) -> None:
    assert not [name for name in client.get("/v1/jobs", headers={"Origin": LAB}).headers if name.startswith("access-control")]
    answer = client.request("OPTIONS", "/v1/jobs", headers=ASKING)
    assert answer.status_code >= 400
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("setting", "named"), [((LAB,), LAB), (("*",), "*")])
def test_named_origins_may_call(start: Callable[..., Server], setting: tuple[str, ...], named: str) -> None:
    server = start(cors_origins=setting, auth="required")
    with httpx.Client(base_url=server.url) as anonymous:
        asked = anonymous.request("OPTIONS", "/v1/jobs", headers=ASKING)
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers.get_list("access-control-allow-origin") == [named]
        assert {"authorization", "content-type", "idempotency-key"} <= set(
            asked.headers["access-control-allow-headers"].lower().split(", ")
        )
        assert {"GET", "POST", "PATCH", "PUT", "DELETE"} <= set(asked.headers["access-control-allow-methods"].split(", "))
        refused = anonymous.get("/v1/jobs", headers={"Origin": LAB})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, named)
        page = anonymous.get("/login", headers={"Origin": LAB})
        assert "access-control-allow-origin" not in page.headers
    with server.client("lab") as client:
        answer = client.get("/v1/jobs", headers={"Origin": LAB})
        assert answer.headers["access-control-allow-origin"] == named
        assert "ETag" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        if named != "*":
            stranger = client.get("/v1/jobs", headers={"Origin": "https://evil.example"})
            assert "access-control-allow-origin" not in stranger.headers
            assert "origin" in stranger.headers["vary"]


def test_without_keys_a_named_origin_may_change_things_and_others_may_not(start: Callable[..., Server]) -> None:
    server = start(cors_origins=(LAB,), auth="off")
    with httpx.Client(base_url=server.url) as client:
        assert client.post("/v1/uploads", headers={"Origin": LAB}).status_code == 201
        assert client.post("/v1/uploads", headers={"Origin": "https://evil.example"}).json()["code"] == "cross_origin_refused"


@pytest.mark.parametrize("wrong", ["lab.example", "https://lab.example/", "https://*.example", "null", "https://Lab.example"])
def test_what_is_no_origin_is_refused_at_the_start(wrong: str) -> None:
    with pytest.raises(ValidationError, match="no origin"):
        Settings(cors_origins=(wrong,))


def test_everybody_without_keys_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="needs keys"):
        Settings(cors_origins=("*",), auth="off")
