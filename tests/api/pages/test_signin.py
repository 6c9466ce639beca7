"""A session has the rights of its key and ends with it; forms count only from pages that the same browser was shown."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core.access import keys, sessions
from core.access.keys import Scope
from core.database.clock import db_now
from core.database.tables import WebSession
from tests.api.conftest import Client, Server, problem
from tests.api.pages.conftest import Browser


def test_pages_lead_to_the_login_and_back(server: Server, client: Client, nobody: Browser, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = f"/jobs/{job['id']}/logs?lines=5"
    led = nobody.get(path)
    assert (led.status_code, led.headers["location"]) == (303, f"/login?next=%2Fjobs%2F{job['id']}%2Flogs%3Flines%3D5")
    form = nobody.get(led.headers["location"])
    assert f'name="next" value="{path}"' in form.text
    entered = nobody.fill("/login", "/login", key=client.token, next=path)
    assert (entered.status_code, entered.headers["location"]) == (303, path)
    assert nobody.get(path).status_code == 200


def test_programs_are_told_and_not_led(server: Server) -> None:
    with Client(server, None) as program:
        problem(program.get("/"), 401, "unauthenticated")
        problem(program.get("/models"), 401, "unauthenticated")


def test_the_cookie_is_out_of_reach(browser: Browser, nobody: Browser, client: Client) -> None:
    nobody.get("/login")
    set_cookie = nobody.log_in(client.token).headers["set-cookie"]
    name, _, rest = set_cookie.partition("=")
    assert name == "modelpress"
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(rest.split("; "))
    assert client.token is not None
    assert client.token.split("_")[2] not in set_cookie


def test_over_https_the_cookie_is_bound_to_host_and_to_https() -> None:
    from api.front import browser as front

    scope = {"scheme": "https", "headers": [(b"cookie", b"modelpress=x; __Host-modelpress=y")]}
    assert front.set_cookie(scope, front.SESSION, "v", 5) == "__Host-modelpress=v; Path=/; HttpOnly; SameSite=Lax; Max-Age=5; Secure"
    assert front.cookie(scope, front.SESSION) == "y", "a cookie without the prefix may come from another host"


@pytest.mark.parametrize("key", ["", "mp_nonsense", f"mp_{'0' * 26}_{'A' * 43}", "é\x00"])
def test_a_wrong_key_opens_nothing(nobody: Browser, key: str) -> None:
    refused = nobody.log_in(key)
    assert refused.status_code == 401
    assert "not valid" in refused.text
    assert "modelpress" not in nobody.cookies
    assert nobody.get("/").status_code == 303


def test_an_expired_key_opens_nothing(server: Server, nobody: Browser) -> None:
    assert nobody.log_in(server.key("old", valid_for=timedelta(seconds=0))).status_code == 401


def test_a_session_ends_with_its_key(server: Server, browser: Browser, client: Client) -> None:
    assert browser.get("/").status_code == 200
    with server.service.database.unit_of_work() as session:
        asking = keys.verify(session, client.token or "")
        keys.revoke(session, asking.project_id, asking.key_id or "")
    time.sleep(1.1)  # so long a verified key is trusted
    assert browser.get("/").status_code == 303
    part = browser.get("/", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/login")


def test_a_session_ends_in_time(server: Server, browser: Browser) -> None:
    with server.service.database.unit_of_work() as session:
        session.execute(update(WebSession).values(expires_at=db_now(-1)))
    time.sleep(1.1)
    assert browser.get("/").status_code == 303
    with server.service.database.unit_of_work() as session:
        sessions.expire(session)  # the service itself may have done so already
        assert session.scalar(select(func.count()).select_from(WebSession)) == 0


def test_logging_out_ends_the_session_wherever_its_cookie_is(server: Server, browser: Browser) -> None:
    kept = browser.cookies["modelpress"]
    left = browser.fill("/logout", "/")
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert browser.get("/").status_code == 303
    with Browser(server) as thief:
        assert thief.get("/", headers={"Cookie": f"modelpress={kept}"}).status_code == 303


def test_one_key_has_a_bounded_number_of_sessions(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST_OF_A_KEY", 3)
    database = server.service.database
    with database.reader() as session:
        key_id = keys.verify(session, client.token or "").key_id or ""
    begun = []
    for seconds in range(60, 65):
        with database.unit_of_work() as session:
            begun.append(sessions.begin(session, key_id, seconds))
    with database.reader() as session:
        for secret in begun[2:]:
            assert sessions.verify(session, secret).key_id == key_id
        for secret in begun[:2]:
            with pytest.raises(keys.Unauthenticated):
                sessions.verify(session, secret)


def test_rights_are_those_of_the_key(server: Server, nobody: Browser, client: Client, spec: dict[str, Any]) -> None:
    nobody.log_in(server.key("readers", scopes=[Scope.JOBS_READ]))
    assert nobody.get("/").status_code == 200
    refused = nobody.get("/models")
    assert refused.status_code == 403
    assert "models:read" in refused.text
    assert nobody.fill("/jobs/job_1/cancel", "/").status_code == 403
    assert nobody.get(f"/jobs/{client.job(spec)['id']}").status_code == 404, "another project's job is not there"


def test_a_cookie_opens_pages_and_what_they_link_to_only(server: Server, browser: Browser, client: Client, spec: dict[str, Any]) -> None:
    assert browser.get(f"/v1/models/{spec['model']}/content").status_code == 200
    for path in ("/v1/jobs", f"/v1/models/{spec['model']}", "/v1/usage", "/metrics"):
        problem(browser.get(path), 401, "unauthenticated")
    problem(browser.post("/v1/jobs", json=spec), 401, "unauthenticated")
    problem(browser.delete(f"/v1/models/{spec['model']}"), 401, "unauthenticated")
    problem(browser.delete(f"/v1/models/{spec['model']}/content"), 401, "unauthenticated")


def forged(browser: Browser, **change: Any) -> Any:
    """A form that is complete but for what `change` does to it."""
    headers = {"Origin": browser.origin, **change.pop("headers", {})}
    data = {"form_token": browser.token("/"), **change}
    return browser.post("/logout", data={key: value for key, value in data.items() if value is not None}, headers=headers)


@pytest.mark.parametrize(
    "change",
    [
        {"form_token": None},
        {"form_token": ""},
        {"form_token": "0" * 64},
        {"form_token": "é"},
        {"headers": {"Origin": "https://evil.example"}},
        {"headers": {"Origin": "null"}},
        {"headers": {"Sec-Fetch-Site": "cross-site"}},
        {"headers": {"Sec-Fetch-Site": "same-site"}},
    ],
    ids=str,
)
def test_a_form_of_somebody_elses_changes_nothing(browser: Browser, change: dict[str, Any]) -> None:
    refused = forged(browser, **change)
    assert refused.status_code == 403
    assert "cross_origin_refused" in refused.text
    assert browser.get("/").status_code == 200, "still logged in"


def test_the_token_of_another_browser_does_not_count(server: Server, browser: Browser, nobody: Browser) -> None:
    assert forged(browser, form_token=nobody.token("/login")).status_code == 403
    with Browser(server) as other:
        other.log_in(server.key("elsewhere"))
        assert forged(browser, form_token=other.token("/")).status_code == 403
    assert forged(browser).status_code == 303


def test_logging_in_needs_a_form_of_ours(nobody: Browser, client: Client) -> None:
    nobody.get("/login")
    assert nobody.post("/login", data={"key": client.token}).status_code == 403
    assert "modelpress" not in nobody.cookies


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a b", "/\n/x", "x"]
)
def test_logging_in_leads_nowhere_else(nobody: Browser, client: Client, onward: str) -> None:
    assert nobody.fill("/login", "/login", key=client.token, next=onward).headers["location"] == "/"


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"a=1&" * 3000, "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"a" * 300_000, "application/x-www-form-urlencoded", 413),
        (b"{}", "application/json", 415),
        (b"--x", "multipart/form-data; boundary=x", 415),
    ],
)
def test_forms_that_are_none(browser: Browser, body: bytes, media_type: str, status: int) -> None:
    assert browser.post("/logout", content=body, headers={"Content-Type": media_type}).status_code == status


def test_pages_stay_with_this_origin(browser: Browser) -> None:
    policy = browser.get("/").headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert browser.get("/").headers["cache-control"] == "no-store"


def test_files_of_pages_are_kept_under_a_name_of_their_bytes(nobody: Browser, browser: Browser) -> None:
    import re

    paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', browser.get("/").text)
    assert len(paths) >= 4
    for path in paths:
        answer = nobody.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
    assert nobody.get("/static/nothing.js").status_code == 404
    assert nobody.get("/static/..%2f__init__.py").status_code == 404


def test_where_no_keys_are_asked_for_forms_still_need_a_page(start: Callable[..., Server]) -> None:
    server = start(auth="off")
    with Browser(server) as local:
        assert local.get("/").status_code == 200
        assert local.get("/login").headers["location"] == "/"
        assert "Log out" not in local.get("/").text
        assert local.post("/jobs/job_1/cancel", data={}, headers={"Origin": local.origin}).status_code == 403
