"""The OpenAPI document against the running service: what is documented is accepted, what is answered is documented, nothing breaks."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS as CHECKS_BY_NAME
from schemathesis.specs.openapi import checks as openapi

from api.app import create_app
from api.examples import EXAMPLES
from api.front import limits
from core.jobs import NewArtifact
from core.settings import Settings
from tests.api.conftest import DATASET_INSPECTION, MAX_UPLOAD_BYTES, MODEL_INSPECTION, Server, running
from tests.api.test_artifacts import REPORT

THOROUGH = "CONTRACT_EXAMPLES" in os.environ
EXAMPLES_EACH = int(os.environ.get("CONTRACT_EXAMPLES", "2"))
SEEDS = (1, 2, 3)
CHECKS = [CHECKS_BY_NAME.get_one(name) for name in CHECKS_BY_NAME.get_all_names()]
"""Every check that there is."""


BEYOND_A_SCHEMA = {
    "dataset_required": "which steps need a dataset is a rule between fields",
    "egress_failed": "the address that a client names does not answer here: nothing outside is reached",
    "egress_refused": "whether an address is public is known when it is looked up",
    "digest_mismatch": "no schema knows the hash of a body",
    "unsupported_format": "what a file holds is seen when it is read",
    "truncated_upload": "the same",
    "model_invalid": "the same",
    "dataset_invalid": "the same",
    "architecture_invalid": "parameters of architectures have schemas of their own, in GET /v1/architectures",
    "invalid_metadata": "metadata have a schema of their own, which depends on the format",
    "etag_mismatch": "ETags change with the state",
    "settings_not_separable": "what an artifact holds is not in the schema",
    "upload_too_large": "how large a file may be is the operator's to say",
    "idempotency_key_reused": "what was sent under the key before",
    "range_not_satisfiable": "the size of a file is not in the schema",
}
"""Codes under which a request may be refused that its schema allows, and why no schema could say so."""
BEYOND_THE_SPEC = {
    "dataset_required": "what needs a dataset is a rule between fields",
    "order_invalid": "rules between the steps",
    "not_found": "ids of things that are not there",
    "spec_invalid": "rules between fields",
    "value_error": "rules between fields",
}
"""The same for what is wrong in a spec that its schema allows."""
BEYOND_JSON = (
    "holds a NUL or a lone surrogate",  # free-form objects, such as metadata, take any text but these
    "a number does not fit in 64 bits",  # the same
    "one of setting, width, max_latency_ms, max_macs",  # exactly one of four parameters
    "contradict each other",  # two headers, or two members of one
    "`metadata` is",  # a JSON document within a parameter
    "content-digest is not a digest",  # the pattern leaves algorithms out by looking ahead, which the generator does not read
    "the preview has no split",  # which splits there are stands in the dataset
    "is not in this list any more",  # the row that a cursor names
)
"""Sentences of the same kind under the code `malformed_request`."""


def left_out(case: schemathesis.Case, response: schemathesis.Response) -> list:
    """The checks that do not apply to an answer, for a reason that stands above."""
    if response.status_code == 200 and case.operation.definition.raw["operationId"] == "validate_spec":
        return [openapi.negative_data_rejection]  # it answers what is wrong with a spec, with 200
    if response.status_code == 200 and isinstance((case.query or {}).get("label", []), str | int | float):
        return [openapi.negative_data_rejection]  # in an address, a list of one is its value
    if response.status_code < 400 or "problem+json" not in str(response.headers.get("content-type")):
        return []
    problem = response.json()
    code, errors = problem["code"], problem.get("errors", [])
    beyond = code in BEYOND_A_SCHEMA or any(words in f"{problem['detail']} {problem.get('hint')}" for words in BEYOND_JSON)
    if code == "invalid_body" and errors:
        beyond = all(item["code"] == "value_error" for item in errors)  # rules between fields
    if code == "spec_invalid":
        beyond = all(item["code"] in BEYOND_THE_SPEC for item in errors)
    found = [openapi.positive_data_acceptance] if beyond else []
    return [*found, schemathesis.checks.not_a_server_error] if code == "egress_failed" else found


@pytest.fixture(scope="module")
def server(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes any number of wrong keys from an address: every example is sent without a key and with a wrong one, too."""
    folder = tmp_path_factory.mktemp("schema")
    shutil.copy(_sqlite_template, folder / "modelpress.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "FAILURES_BURST", 1e9)
        with running(
            Settings(data_dir=folder, auth="required", min_free_bytes=0, max_upload_bytes=MAX_UPLOAD_BYTES, lease_seconds=600)
        ) as running_server:
            yield running_server


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


def answers_as_documented(seed: int):
    """A test of every operation with examples drawn from a seed."""
    schema = schemathesis.openapi.from_dict(create_app(Settings(auth="required")).openapi())
    schema.config.seed = seed
    # Thousands of systematic cases, which do not depend on the seed, are for `make contract`; random ones of the same kinds are enough here.
    schema.config.phases.coverage.enabled = THOROUGH and seed == SEEDS[0]

    @schema.parametrize()
    @settings(max_examples=EXAMPLES_EACH, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def test(case: schemathesis.Case, server: Server, token: str, found: dict[str, str]) -> None:
        # Not the deletions: what exists has to be there for the next example.
        if case.method != "DELETE":
            for name in case.path_parameters or {}:
                # What was drawn to be no id stays so: the request is to be refused for it.
                drawn_right = re.fullmatch(r"[a-z]+_[A-Za-z0-9]{1,40}", str(case.path_parameters[name]))
                if drawn_right and name.removesuffix("_id") in found and len(repr(case.query)) % 2:
                    case.path_parameters[name] = found[name.removesuffix("_id")]
        # The server itself refuses a request line of more than 64 KiB, in its own words.
        if "metadata" in (case.query or {}):
            case.query["metadata"] = str(case.query["metadata"])[:2000]
        headers = {"Authorization": f"Bearer {token}"}
        response = case.call(server.url, headers=headers, timeout=20)
        case.validate_response(response, checks=CHECKS, excluded_checks=left_out(case, response), headers=headers)

    return test


test_first_seed, test_second_seed, test_third_seed = (answers_as_documented(seed) for seed in SEEDS)
