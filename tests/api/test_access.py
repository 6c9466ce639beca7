"""Who may do what: nothing without a key, nothing of another project, nothing beyond the key's scopes, nothing from another origin."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from api.app import create_app
from api.examples import EXAMPLES
from api.front.authentication import PUBLIC, PUBLIC_FOLDERS
from core import jobs
from core.access import keys
from core.access.keys import Scope
from core.settings import Settings
from tests.api.conftest import Client, Server, problem

FIXED = {"slug": "not-found", "number": "1", "name": "static_quantization", "tab": "logs", "key": "key_1", "side": "before"}
FILES = {"/docs/{filename}": "docs.js", "/static/{filename}": "pages.js", "/static/netron/{filename}": "view.js"}


def _routes() -> Iterator[tuple[str, str, APIRoute]]:
    for route in create_app(Settings(auth="required")).routes:
        assert isinstance(route, APIRoute), "a route of another kind would not be walked here"
        for method in route.methods:
            yield method, route.path, route


ROUTES = list(_routes())


def _path(template: str, ids: dict[str, str]) -> str:
    return template.format(**{f"{kind}_id": found for kind, found in ids.items()}, **FIXED, filename=FILES.get(template, "model.onnx"))


def test_the_walk_sees_the_whole_contract() -> None:
    assert len(ROUTES) > 40
    assert {"/v1/models", "/v1/jobs/{job_id}", "/v1/artifacts/{artifact_id}/content", "/metrics"} <= {path for _, path, _ in ROUTES}


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, _ in ROUTES])
@pytest.mark.parametrize("header", [None, "Bearer mp_nonsense", f"Bearer mp_{'0' * 26}_{'A' * 43}", "Basic eDp5"])
def test_nothing_but_the_public_is_answered_without_a_key(server: Server, method: str, path: str, header: str | None) -> None:
    with Client(server, None) as anyone:
        answer = anyone.request(method, _path(path, EXAMPLES), headers={} if header is None else {"Authorization": header})
    if method == "POST" and path == "/login":
        problem(answer, 403, "cross_origin_refused")
    elif path in PUBLIC or path.startswith(PUBLIC_FOLDERS):
        assert answer.status_code == 200
    else:
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_unknown_paths_say_nothing_without_a_key(server: Server, client: Client) -> None:
    with Client(server, None) as anyone:
        problem(anyone.get("/v1/secrets"), 401, "unauthenticated")
        problem(anyone.get("/v1/../v1/jobs"), 401, "unauthenticated")
        problem(anyone.get("/docs/../v1/jobs"), 401, "unauthenticated")
    problem(client.get("/v1/secrets"), 404, "not_found")


def _scopes(route: APIRoute) -> set[Scope]:
    return {scope for dependency in route.dependant.dependencies for scope in getattr(dependency.call, "scopes", ())}


PROTECTED = [(method, path, route) for method, path, route in ROUTES if path not in PUBLIC and not path.startswith(PUBLIC_FOLDERS)]
OPEN_TO_ANY_KEY = {
    "/v1/methods",
    "/v1/methods/{name}",
    "/v1/architectures",
    "/v1/architectures/{name}",
    "/v1/schemas/spec",
    "/v1/usage",
    "/v1/version",
    "/logout",
    "/keys",
    "/methods",
    "/methods/{name}",
}


def test_every_route_that_touches_data_asks_for_a_scope() -> None:
    assert {path for _, path, route in PROTECTED if not _scopes(route)} == OPEN_TO_ANY_KEY


def test_a_key_without_the_scope_is_refused(server: Server) -> None:
    with server.client("scopes", scopes=[]) as powerless:
        for method, path, route in PROTECTED:
            answer = powerless.request(method, _path(path, EXAMPLES), content=b"{}", headers={"content-type": "application/json"})
            if _scopes(route):
                body = problem(answer, 403, "scope_missing")
                assert any(scope in body["detail"] for scope in _scopes(route))
            else:
                assert answer.status_code in (200, 404) or path == "/logout"


def test_a_scope_opens_what_it_names_and_nothing_else(server: Server) -> None:
    with server.client("readers", scopes=[Scope.JOBS_READ]) as reader:
        assert reader.get("/v1/jobs").status_code == 200
        problem(reader.post("/v1/jobs", json={}), 403, "scope_missing")
        problem(reader.get("/v1/models"), 403, "scope_missing")
        problem(reader.get("/metrics"), 403, "scope_missing")
    with server.client("uploaders", scopes=[Scope.DATASETS_WRITE]) as uploader:
        assert uploader.post("/v1/uploads").status_code == 201
    with server.client("operators", scopes=[Scope.ADMIN]) as operator:
        assert operator.get("/metrics").status_code == 200
        assert operator.get("/v1/jobs").status_code == 200


def test_another_projects_things_are_not_found(server: Server, client: Client, stranger: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    blob = server.service.blobs.put_bytes(b"artifact")
    from core.jobs import NewArtifact

    server.finish(job["id"], artifacts=[NewArtifact("model", "onnx", "m.onnx", blob), NewArtifact("report", "json", "report.json", blob)])
    ids = {
        "model": spec["model"],
        "dataset": spec["dataset"],
        "job": job["id"],
        "artifact": client.get(job["urls"]["artifacts"]).json()["data"][0]["id"],
        "upload": client.post("/v1/uploads").json()["id"],
        "webhook": (webhook := client.post("/v1/webhooks", json={"url": "https://hooks.example/x"}).json())["id"],
        "delivery": client.post(webhook["urls"]["test"]).json()["id"],
        "template": client.post("/v1/templates", json={"name": "t", "spec": {"quantize": "int8"}}).json()["id"],
    }
    walked = 0
    for method, path, _ in ROUTES:
        if "_id}" in path:
            walked += 1
            assert client.get(_path("/v1/jobs/{job_id}", ids)).status_code == 200
            answer = stranger.request(method, _path(path, ids))
            foreign = problem(answer, 404, "not_found")
            unknown = problem(stranger.request(method, _path(path, EXAMPLES)), 404, "not_found")
            for found in ids.values():
                foreign["detail"] = foreign["detail"].replace(found, "")
            for example in EXAMPLES.values():
                unknown["detail"] = unknown["detail"].replace(example, "")
            assert foreign["detail"] == unknown["detail"]
    assert walked > 25
    for listing in ("/v1/models", "/v1/datasets", "/v1/jobs"):
        assert stranger.get(listing).json()["data"] == []
    assert stranger.get("/v1/jobs", params={"model_id": ids["model"]}).json()["data"] == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        (lambda own, foreign: {"model": foreign["model"]}, "/model"),
        (lambda own, foreign: {"dataset": foreign["dataset"]}, "/dataset"),
        (
            lambda own, foreign: {"steps": [{"method": "distillation", "teacher": foreign["model"], "epochs": 1}]},
            "/steps/0/teacher",
        ),
        (
            lambda own, foreign: {"steps": [{"method": "distillation", "teacher": ["baseline", foreign["model"]], "epochs": 1}]},
            "/steps/0/teacher",
        ),
    ],
)
def test_another_projects_ids_inside_a_spec_are_not_found(
    client: Client, stranger: Client, spec: dict[str, Any], onnx_bytes: bytes, npz_bytes: bytes, change: Any, pointer: str
) -> None:
    own = {"model": stranger.model(onnx_bytes)["id"], "dataset": stranger.dataset(npz_bytes)["id"], "steps": spec["steps"]}
    assert stranger.post("/v1/jobs", json=own).status_code == 202
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        body = problem(stranger.post(path, json={**own, **change(own, spec)}), 404, "not_found")
        assert body["errors"][0]["pointer"] == pointer


def test_ids_that_cannot_exist_are_not_found(client: Client) -> None:
    for path in ("/v1/jobs/x", "/v1/jobs/job_%00", "/v1/models/mdl_é", "/v1/artifacts/art_" + "a" * 500, "/v1/jobs/job_../logs"):
        problem(client.get(path), 404, "not_found")


def test_a_revoked_key_opens_nothing_after_a_moment(server: Server) -> None:
    with server.client("revoked") as client:
        assert client.get("/v1/jobs").status_code == 200
        with server.service.database.unit_of_work() as session:
            principal = keys.verify(session, client.token or "")
            keys.revoke(session, principal.project_id, principal.key_id or "")
        time.sleep(1.1)
        problem(client.get("/v1/jobs"), 401, "unauthenticated")


def test_a_long_poll_answers_nothing_after_its_key_was_revoked(server: Server, client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    with server.service.database.reader() as session:
        asking = keys.verify(session, client.token or "")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, job["urls"]["self"], headers={"Prefer": "wait=10"})
        time.sleep(1.1)  # so long a key is trusted without asking again
        with server.service.database.unit_of_work() as session:
            keys.revoke(session, asking.project_id, asking.key_id or "")
            jobs.cancel(session, asking.project_id, job["id"])
        problem(waiting.result(), 401, "unauthenticated")


def test_an_expired_key_opens_nothing(server: Server) -> None:
    with server.client("expired", valid_for=timedelta(seconds=0)) as client:
        problem(client.get("/v1/jobs"), 401, "unauthenticated")


def test_the_use_of_a_key_is_noted(server: Server) -> None:
    with server.client("used") as client:
        client.get("/v1/jobs")
        with server.service.database.reader() as session:
            found = keys.find_all(session, keys.verify(session, client.token or "").project_id)
    assert found[0].last_used_at is not None


@pytest.fixture
def local(start: Callable[..., Server]) -> Iterator[Client]:
    """A client of a server that is bound to loopback and wants no keys."""
    with Client(start(auth="off"), None) as opened:
        yield opened


def test_without_keys_only_local_names_are_served(local: Client) -> None:
    for host in ("localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "127.1.2.3"):
        assert local.get("/v1/jobs", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "localhost@evil.example:80", "[", ""):
        problem(local.get("/v1/jobs", headers={"Host": host}), 421, "host_not_allowed")


def test_without_keys_only_this_machine_is_served(tmp_path: Path) -> None:
    async def ask(address: str) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Settings(auth="off", data_dir=tmp_path)), client=(address, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/livez")

    assert [asyncio.run(ask(address)).status_code for address in ("127.0.0.1", "127.9.9.9", "::1")] == [200, 200, 200]
    for address in ("10.0.0.7", "192.168.1.5", "2001:db8::1", "::ffff:10.0.0.7"):
        problem(asyncio.run(ask(address)), 403, "not_local")


def test_without_keys_a_page_elsewhere_changes_nothing(local: Client, onnx_bytes: bytes) -> None:
    own = f"{local.base_url.scheme}://{local.base_url.netloc.decode()}"
    for method in ("POST", "PUT", "DELETE"):
        answer = local.request(method, "/v1/models", content=onnx_bytes, headers={"Origin": "https://evil.example"})
        problem(answer, 403, "cross_origin_refused")
    problem(local.post("/v1/models", content=onnx_bytes, headers={"Origin": "null"}), 403, "cross_origin_refused")
    assert local.post("/v1/models", content=onnx_bytes, headers={"Origin": own}).status_code == 201
    assert "access-control-allow-origin" not in local.get("/v1/models", headers={"Origin": "https://evil.example"}).headers


def test_with_keys_any_host_is_served(client: Client) -> None:
    assert client.get("/v1/jobs", headers={"Host": "models.example"}).status_code == 200


def test_a_hot_job_is_guarded_like_a_cold_one(server: Server, client: Client, stranger: Client, spec: dict[str, Any]) -> None:
    path = client.job(spec)["urls"]["self"]
    for _ in range(3):
        assert client.get(path).status_code == 200
        problem(stranger.get(path), 404, "not_found")
        with Client(server, None) as anyone:
            problem(anyone.get(path), 401, "unauthenticated")
    with server.client("powerless", scopes=[]) as powerless:
        problem(powerless.get(path), 403, "scope_missing")
