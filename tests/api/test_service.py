"""Health, version, figures, documentation, and what the process weighs."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api import routes
from core.jobs import worker_registry
from engine import __version__
from engine.contract.method import catalogue
from engine.contract.spec import json_schema, parse
from tests.api.conftest import Client, Server, problem

ROOT = Path(__file__).parents[2]


def test_a_live_process_says_so(client: Client) -> None:
    assert client.get("/livez").json() == {"status": "ok"}


@pytest.fixture(autouse=True)
def _ask_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes.health, "_CHECK_SECONDS", 0)


def test_readiness_names_every_part(start: Callable[..., Server]) -> None:
    server = start(auth="off")
    with Client(server, None) as client:
        body = client.get("/readyz").json()
        assert body["status"] == "degraded"
        assert {name: check["status"] for name, check in body["checks"].items()} == {
            "database": "ok",
            "blobs": "ok",
            "broker": "ok",
            "workers": "degraded",
        }
        assert "cpu" in body["checks"]["workers"]["detail"]
        with server.service.database.unit_of_work() as session:
            worker_registry.note(session, "cpu", "host:1")
            worker_registry.note(session, "inspect", "host:1")
        assert client.get("/readyz").json()["status"] == "ok"
        with server.service.database.unit_of_work() as session:
            worker_registry.leave(session, "inspect", "host:1")
        assert client.get("/readyz").json()["checks"]["workers"]["status"] == "degraded"


def test_a_database_that_is_gone_is_not_ready(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(auth="off")
    with Client(server, None) as client:

        def away(*_: Any) -> None:
            raise OSError("cannot reach db.internal:5432")

        monkeypatch.setattr("core.database.migrate.revision", away)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert answer.json()["checks"]["database"]["status"] == "failed"
        assert "db.internal" not in answer.text
        assert client.get("/livez").status_code == 200


def test_a_full_disk_only_stops_uploads(start: Callable[..., Server]) -> None:
    with Client(start(auth="off", min_free_bytes=2**60), None) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]["blobs"]["status"]) == (200, "degraded")


def test_the_version_lists_what_can_be_run(client: Client) -> None:
    version = client.get("/v1/version").json()
    assert (version["service"], version["api"]) == (__version__, "v1")
    assert version["methods"] == [name for name, method in catalogue().items() if method.available()]
    assert "static_quantization" in version["methods"]


def test_methods_are_described_by_the_catalogue(client: Client) -> None:
    page = client.get("/v1/methods")
    found = {method["name"]: method for method in page.json()["data"]}
    assert list(found) == list(catalogue())
    for name, method in found.items():
        assert method["family"] == catalogue()[name].family()
        assert method["description"]
        assert method["params_schema"]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert method["params_schema"]["properties"].keys() >= method["defaults"].keys()
        for example in method["examples"]:
            assert parse({"model": "mdl_x", "dataset": "ds_x", "steps": [example]})[0] is not None
    one = client.get("/v1/methods/static_quantization")
    assert one.json() == found["static_quantization"]
    for answer in (page, one, client.get("/v1/schemas/spec")):
        again = client.get(answer.request.url.path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert "'static_quantization'" in problem(client.get("/v1/methods/static_quantisation"), 404, "not_found")["hint"]


def test_the_schema_of_a_spec_is_the_engines_own(client: Client) -> None:
    answer = client.get("/v1/schemas/spec")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json() == json_schema()


def test_architectures_are_listed(client: Client) -> None:
    found = client.get("/v1/architectures").json()["data"]
    assert "resnet20" in {item["name"] for item in found}
    assert client.get("/v1/architectures/resnet20").json() in found
    problem(client.get("/v1/architectures/resnet_20"), 404, "not_found")


def test_figures_count_jobs_and_requests(start: Callable[..., Server], onnx_bytes: bytes) -> None:
    server = start(auth="off")
    with Client(server, None) as client:
        spec = {"model": client.model(onnx_bytes)["id"], "quantize": "int8"}
        done, _ = client.job(spec), client.job(spec)

        def value(line: str) -> float:
            text = client.get("/metrics").text
            match = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
            return float(match[1]) if match else 0.0

        assert value('modelpress_jobs{queue="cpu",status="queued"}') == 2
        server.finish(done["id"])
        for _ in range(2):
            assert value('modelpress_jobs_finished_total{method="dynamic_quantization",status="succeeded"}') == 1
            assert value("modelpress_job_queue_seconds_count") == 1
            assert value('modelpress_jobs{queue="cpu",status="queued"}') == 1
        client.get(done["urls"]["self"])
        before = value('modelpress_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}')
        client.get(done["urls"]["self"])
        assert value('modelpress_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"}') == before + 1
        client.get("/some/random/path")
        assert "random" not in client.get("/metrics").text


def test_the_documentation_asks_no_other_origin(client: Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(files) == 4
    for file in files:
        answer = client.get("/" + file)
        assert answer.status_code == 200
        assert len(answer.content) > 500
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "default-src 'none'" in policy
    assert "<script>" not in page.text
    problem(client.get("/docs/../app.py"), 404, "not_found")
    problem(client.get("/docs/secrets.js"), 404, "not_found")
    assert 'href="/docs"' in client.get("/").text


def test_the_snapshot_of_the_contract_is_fresh() -> None:
    command = [sys.executable, ROOT / "docs" / "generate_openapi.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_document_is_complete(client: Client) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert references <= document["components"]["schemas"].keys()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for operation in operations:
        assert operation["description"]
        assert operation["tags"]
        assert "application/problem+json" in operation["responses"]["default"]["content"]
    assert "HTTPValidationError" not in text
    examples = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        spec, problems = parse(example["value"])
        assert spec is not None, problems
    for example in document["x-example-ids"].values():
        assert example in text


_WEIGHT = """
import sys, time
began = time.perf_counter()
import api.app
took = time.perf_counter() - began
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "onnxruntime", "numpy", "torch_pruning", "pandas", "alembic"})
rss = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(heavy, took, rss / 1024)
app = api.app.create_app(api.app.Settings(auth="off"))
app.openapi()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "onnxruntime", "numpy"}))
"""


def test_the_api_loads_nothing_heavy() -> None:
    found = subprocess.run([sys.executable, "-c", _WEIGHT], check=True, capture_output=True, text=True).stdout.splitlines()
    heavy, _, rest = found[0].partition("] ")
    assert heavy == "["
    assert float(rest.split()[1]) < 120, "MiB of resident memory after the import"
    assert found[1] == "[]"


def test_a_project_sees_what_it_uses_and_an_operator_sets_what_it_may(server: Server, onnx_bytes: bytes) -> None:
    with server.client("used") as client, server.client("used", scopes=["admin"]) as operator, server.client("unused") as stranger:
        client.model(onnx_bytes)
        body = client.get("/v1/usage").json()
        assert body["project"] == "used"
        assert body["quotas"]["stored_bytes"] == {"used": len(onnx_bytes), "limit": None}
        assert body["quotas"]["models"] == {"used": 1, "limit": None}
        assert stranger.get("/v1/usage").json()["quotas"]["models"]["used"] == 0
        problem(client.patch("/v1/quotas", json={"models": 1}), 403, "scope_missing")
        assert operator.patch("/v1/quotas", json={"models": 1}).json()["quotas"]["models"] == {"used": 1, "limit": 1}
        refused = problem(client.post("/v1/models", content=onnx_bytes), 429, "quota_exceeded")
        assert refused["errors"][0]["code"] == "models"
        assert operator.patch("/v1/quotas", json={"models": None, "stored_bytes": len(onnx_bytes)}).status_code == 200
        answer = client.post("/v1/models", content=onnx_bytes)
        assert problem(answer, 429, "quota_exceeded")["errors"][0]["code"] == "stored_bytes"
        assert int(answer.headers["retry-after"]) > 0
        problem(operator.patch("/v1/quotas", json={"modells": 1}), 422, "invalid_body")
        problem(operator.patch("/v1/quotas", json={"models": -1}), 422, "invalid_body")
