"""One trace leads from a client's request through the API and the worker to the steps of the job's process."""

import json
import secrets

import httpx
import pytest

from tests.collector import Collector, Received
from tests.servers import wait_until


@pytest.mark.parametrize("failing", [False, True])
def test_a_job_is_one_trace(service_url: str, collector: Collector, failing: bool) -> None:
    with httpx.Client(base_url=service_url, trust_env=False, timeout=60) as client:
        model, dataset = (client.get(f"/v1/{kind}?name=digits").json()["data"][0]["id"] for kind in ("models", "datasets"))
        step = {"method": "dynamic_quantization"}
        limits = {"timeout_seconds": 1} if failing else {}
        spec = {"model": model, "dataset": dataset, "steps": [step], "limits": limits, "priority": 1}
        trace, parent = secrets.token_hex(16), secrets.token_hex(8)
        made = client.post("/v1/jobs", json=spec, headers={"traceparent": f"00-{trace}-{parent}-01"})
        assert made.status_code == 202, made.text
        job = made.json()
        while job["status"] in ("queued", "running"):
            job = client.get(job["urls"]["self"], headers={"Prefer": "wait=10"}).json()
    assert job["status"] == ("failed" if failing else "succeeded"), json.dumps(job["error"])
    wait_until(lambda: any(span.name == "job.attempt" for span in collector.of(trace)), 30)
    spans = collector.of(trace)
    (request, submit, attempt, process), rest = spans[:4], spans[4:]
    assert [span.name for span in spans[:4]] == ["POST /v1/jobs", "job.submit", "job.attempt", "job.process"]
    assert [span.service for span in spans[:4]] == ["modelpress-api"] * 2 + ["modelpress-worker"] * 2
    for above, below in zip((parent, request.id, submit.id, attempt.id), spans[:4], strict=True):
        assert below.parent == above
    assert (request.attributes["http.response.status_code"], attempt.attributes["job.id"]) == (202, job["id"])
    ids = {span.id: span for span in spans}
    assert all(_is_within(span, ids[span.parent]) for span in (process, *rest))
    assert (attempt.failed, process.failed) == (failing, failing)
    if not failing:
        (step_span,) = (span for span in rest if span.name == "step dynamic_quantization")
        phases = {span.name: span.parent for span in rest if span is not step_span}
        assert step_span.parent == phases["phase exporting"] == process.id


def _is_within(span: Received, above: Received) -> bool:
    return above.start <= span.start <= span.end <= above.end


def test_a_request_without_a_trace_begins_one(service_url: str, collector: Collector) -> None:
    path = f"/v1/jobs/job_{secrets.token_hex(8)}"
    for wrong in ("", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "x\xe9"):
        httpx.get(service_url + path, headers={"traceparent": wrong.encode("latin-1")} if wrong else {}, trust_env=False)
    wait_until(lambda: sum(span.attributes.get("url.path") == path for span in collector.spans) == 3, 30)
    own = [span for span in collector.spans if span.attributes.get("url.path") == path]
    assert {(span.name, span.parent) for span in own} == {("GET /v1/jobs/{job_id}", "")}
    assert len({span.trace for span in own}) == 3
