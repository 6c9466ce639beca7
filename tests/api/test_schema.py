"""The OpenAPI document against the running service: what is documented is accepted, what is answered is documented, nothing breaks."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi import checks

from api.app import create_app
from api.examples import EXAMPLES
from core.jobs import NewArtifact
from core.settings import Settings
from tests.api.conftest import DATASET_INSPECTION, MODEL_INSPECTION, Server
from tests.api.test_artifacts import REPORT

EXAMPLES_EACH = 8
WORTH_CHECKING = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
    checks.ignored_auth,
]


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return server.key("schema", scopes=["admin"])


@pytest.fixture(scope="module")
def found(server: Server, token: str, onnx_bytes: bytes, npz_bytes: bytes) -> dict[str, str]:
    """Ids of things that exist; examples are tried with them and with ids that do not exist."""
    from tests.api.conftest import Client

    with Client(server, token) as client:
        model, dataset = client.model(onnx_bytes), client.dataset(npz_bytes)
        server.inspected(model["id"], MODEL_INSPECTION)
        server.inspected(dataset["id"], DATASET_INSPECTION)
        job = client.job({"model": model["id"], "dataset": dataset["id"], "steps": [{"method": "magnitude_pruning"}]})
        blob = server.service.blobs.put_bytes(REPORT)
        server.finish(
            job["id"], artifacts=[NewArtifact("report", "json", "report.json", blob), NewArtifact("model", "onnx", "m.onnx", blob)]
        )
        made = {
            "model": model,
            "dataset": dataset,
            "job": job,
            "artifact": client.get(job["urls"]["artifacts"]).json()["data"][1],
            "upload": client.post("/v1/uploads").json(),
            "webhook": (webhook := client.post("/v1/webhooks", json={"url": "https://hooks.example/x"}).json()),
            "delivery": client.post(webhook["urls"]["test"]).json(),
            "template": client.post("/v1/templates", json={"name": "t", "spec": {"quantize": "int8"}}).json(),
        }
    ids = {kind: thing["id"] for kind, thing in made.items()}
    assert ids.keys() == EXAMPLES.keys()
    return ids


schema = schemathesis.openapi.from_dict(create_app(Settings(auth="required")).openapi())
# Hundreds of systematic cases for each operation are for a nightly run; random ones of the same kinds are enough here.
schema.config.phases.coverage.enabled = False


@schema.parametrize()
@settings(max_examples=EXAMPLES_EACH, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_service_answers_as_documented(case: schemathesis.Case, server: Server, token: str, found: dict[str, str]) -> None:
    # Not the deletions: what exists has to be there for the next example.
    if case.method != "DELETE":
        for name in case.path_parameters or {}:
            if name.removesuffix("_id") in found and len(repr(case.query)) % 2:
                case.path_parameters[name] = found[name.removesuffix("_id")]
    # The server itself refuses a request line of more than 64 KiB, in its own words.
    if "metadata" in (case.query or {}):
        case.query["metadata"] = str(case.query["metadata"])[:2000]
    # `/v1/jobs/validate` has no GET of its own: the path then means a job that does not exist.
    skipped = [checks.unsupported_method] if case.path == "/v1/jobs/validate" else []
    case.call_and_validate(
        server.url, headers={"Authorization": f"Bearer {token}"}, checks=WORTH_CHECKING, excluded_checks=skipped, timeout=20
    )
