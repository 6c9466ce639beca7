"""Jobs over HTTP: submit, poll, wait, stop, run again."""

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import yaml

from core import jobs
from engine.contract.method import catalogue
from tests.api.conftest import Client, Server, problem
from tests.clock import quickest
from tests.servers import wait_until


def test_a_submitted_job_can_be_found(client: Client, spec: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json={**spec, "name": "smaller", "labels": {"team": "vision"}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["urls"]["self"]
    assert int(answer.headers["retry-after"]) >= 1
    assert (job["status"], job["name"], job["labels"]) == ("queued", "smaller", {"team": "vision"})
    assert (job["model_id"], job["dataset_id"]) == (spec["model"], spec["dataset"])
    assert job["spec"]["steps"] == spec["steps"]
    assert job["normalized_spec"]["steps"][0]["scope"] == "global"
    assert job["spec_hash"].startswith("sha256:")
    assert job["progress"]["steps_count"] == 1
    assert client.get(job["urls"]["self"]).json() == job


@pytest.mark.parametrize("media_type", ["application/yaml", "text/yaml", "application/x-yaml", None])
def test_yaml_says_the_same_as_json(client: Client, spec: dict[str, Any], media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    answer = client.post("/v1/jobs", content=yaml.safe_dump(spec).encode(), headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.json()["spec_hash"] == client.job(spec)["spec_hash"]


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"steps": [{"method": "structured_pruning", "pruning_ratio": 50}]}, "/steps/0/pruning_ratio", "did you mean 0.5?"),
        ({"steps": [{"method": "structured_pruning", "pruning_ratio": 1.0}]}, "/steps/0/pruning_ratio", None),
        ({"steps": [{"method": "structured_prunning"}]}, "/steps/0/method", "did you mean 'structured_pruning'?"),
        ({"steps": [{"method": "magnitude_pruning", "sparsty": 0.5}]}, "/steps/0/sparsty", "did you mean 'sparsity'?"),
        ({"stepps": []}, "/stepps", "did you mean 'steps'?"),
        ({"steps": []}, "/steps", None),
        ({"constraints": {"accuracy": {"max_drop": 2}}}, "/constraints/accuracy/max_drop", "did you mean 0.02?"),
        ({"seed": -1}, "/seed", None),
        ({"model": 5}, "/model", None),
        ({"steps": [{"method": "static_quantization"}, {"method": "structured_pruning"}]}, "/steps/1/method", None),
    ],
)
def test_a_wrong_spec_is_pointed_at_and_nothing_is_queued(
    client: Client, spec: dict[str, Any], change: dict[str, Any], pointer: str, says: str | None
) -> None:
    body = problem(client.post("/v1/jobs", json={**spec, **change}), 422, "spec_invalid")
    found = next(error for error in body["errors"] if error["pointer"] == pointer)
    assert says is None or found["hint"] == says
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_dataset_that_is_missing_has_a_code_of_its_own(client: Client, spec: dict[str, Any]) -> None:
    without = {"model": spec["model"], "steps": [{"method": "static_quantization"}]}
    body = problem(client.post("/v1/jobs", json=without), 422, "dataset_required")
    assert body["errors"][0]["pointer"] == "/dataset"


@pytest.mark.parametrize(
    ("content", "media_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_request"),
        (b"a: [", "application/yaml", 400, "malformed_request"),
        (b"a: &a [*a]", "application/yaml", 400, "malformed_request"),
        (b"", "application/json", 400, "malformed_request"),
        (b"[]", "application/json", 422, "spec_invalid"),
        (b"null", "application/json", 422, "spec_invalid"),
        (b"model: x", "text/plain", 415, "unsupported_media_type"),
        (b'"' + b"x" * 2**21 + b'"', "application/json", 413, "request_too_large"),
    ],
)
def test_bodies_that_are_no_spec(client: Client, content: bytes, media_type: str, status: int, code: str) -> None:
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        if (path, status) != ("/v1/jobs/validate", 422):
            problem(client.post(path, content=content, headers={"content-type": media_type}), status, code)


def test_shapes_that_do_not_fit_are_told_before_the_job_runs(
    client: Client, server: Server, spec: dict[str, Any], npz_bytes: bytes
) -> None:
    dataset = client.dataset(npz_bytes)
    found = {"splits": {"train": {"examples_count": 8}}, "columns": [{"name": "x", "shape": [5], "dtype": "float32"}], "labels": True}
    server.inspected(dataset["id"], found)
    body = problem(client.post("/v1/jobs", json={**spec, "dataset": dataset["id"]}), 422, "shape_mismatch")
    assert body["errors"][0]["pointer"] == "/dataset"
    verdict = client.post("/v1/jobs/validate", json={**spec, "dataset": dataset["id"]}).json()
    assert [error["code"] for error in verdict["errors"]] == ["shape_mismatch"]


def test_a_method_that_cannot_be_run_here_is_refused(client: Client, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue()["magnitude_pruning"], "available", classmethod(lambda cls: False))
    body = problem(client.post("/v1/jobs", json=spec), 422, "method_unavailable")
    assert body["errors"][0]["pointer"] == "/steps/0/method"


def test_an_upload_that_cannot_be_used_is_told_before_the_job_runs(
    client: Client, server: Server, spec: dict[str, Any], npz_bytes: bytes, onnx_bytes: bytes
) -> None:
    dataset, model = client.dataset(npz_bytes), client.model(onnx_bytes)
    server.inspected(dataset["id"], None, {"code": "dataset_invalid", "category": "user", "message": "label 7 of 3 classes"})
    server.inspected(model["id"], None, {"code": "model_invalid", "category": "user", "message": "the graph has a cycle"})
    assert "label 7" in problem(client.post("/v1/jobs", json={**spec, "dataset": dataset["id"]}), 422, "dataset_invalid")["detail"]
    assert "cycle" in problem(client.post("/v1/jobs", json={**spec, "model": model["id"]}), 422, "model_invalid")["detail"]


def test_a_key_makes_one_job(client: Client, stranger: Client, spec: dict[str, Any]) -> None:
    first = client.job(spec, **{"Idempotency-Key": "k1"})
    assert client.job(spec, **{"Idempotency-Key": "k1"})["id"] == first["id"]
    reordered = json.dumps(dict(reversed(spec.items())), indent=3)
    again = client.post("/v1/jobs", content=reordered, headers={"Idempotency-Key": "k1", "content-type": "application/json"})
    assert again.json()["id"] == first["id"]
    problem(client.post("/v1/jobs", json={**spec, "seed": 1}, headers={"Idempotency-Key": "k1"}), 422, "idempotency_key_reused")
    assert client.job(spec, **{"Idempotency-Key": "k2"})["id"] != first["id"]
    assert len(client.get("/v1/jobs").json()["data"]) == 2
    problem(client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "two words"}), 400, "malformed_request")
    problem(client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": ""}), 400, "malformed_request")


def test_a_spec_that_was_refused_does_not_use_up_its_key(client: Client, spec: dict[str, Any]) -> None:
    problem(client.post("/v1/jobs", json={**spec, "seed": -1}, headers={"Idempotency-Key": "k"}), 422, "spec_invalid")
    assert client.job(spec, **{"Idempotency-Key": "k"})["status"] == "queued"


def test_the_same_submit_fifty_times_at_once_makes_one_job(client: Client, spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "same"}), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_an_unchanged_job_is_not_sent_again(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = job["urls"]["self"]
    answer = client.get(path)
    etag = answer.headers["etag"]
    for _ in range(2):
        unchanged = client.get(path, headers={"If-None-Match": etag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert unchanged.headers["etag"] == etag
        assert "retry-after" in unchanged.headers
    claim = server.claim(job["id"])
    server.report(claim, jobs.Report(phase="pruning"))
    _until_seen(client, path, "running")
    changed = client.get(path, headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
    assert (changed.json()["phase"], changed.json()["device"], changed.json()["isolation"]["tier"]) == ("pruning", "cpu", 1)


def _until_seen(client: Client, path: str, status: str) -> float:
    began = time.monotonic()
    while client.get(path).json()["status"] != status:
        assert time.monotonic() - began < 5
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_job_that_is_asked_for_all_the_time_shows_its_end_soon(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    path = job["urls"]["self"]
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            client.get(path)

    pollers = [threading.Thread(target=poll) for _ in range(4)]
    for poller in pollers:
        poller.start()
    try:
        server.finish(job["id"])
        # Memory is trusted for less than a second (test_hot.py); the rest is the delay of a machine that runs other tests.
        assert _until_seen(client, path, "succeeded") < 4
    finally:
        stop.set()
        for poller in pollers:
            poller.join()
    final = client.get(path)
    assert "retry-after" not in final.headers
    assert final.json()["progress"]["fraction"] == 1.0


def test_what_this_process_changes_is_seen_at_once(client: Client, spec: dict[str, Any]) -> None:
    path = client.job(spec)["urls"]["self"]
    for _ in range(3):
        assert client.get(path).json()["status"] == "queued"
    client.post(f"{path}/cancel")
    assert client.get(path).json()["status"] == "cancelled"
    client.delete(path)
    problem(client.get(path), 404, "not_found")


def test_waiting_ends_when_the_job_ends(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, job["urls"]["self"], headers={"Prefer": "wait=20"})
        time.sleep(0.3)
        assert not waiting.done()
        server.finish(job["id"])
        answer = waiting.result(timeout=3)
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["preference-applied"] == "wait=20"


def test_a_long_poll_ends_with_the_first_change(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    etag = client.get(job["urls"]["self"]).headers["etag"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, job["urls"]["self"], headers={"Prefer": "wait=20", "If-None-Match": etag})
        time.sleep(0.3)
        assert not waiting.done()
        server.claim(job["id"])
        answer = waiting.result(timeout=3)
    assert (answer.status_code, answer.json()["status"]) == (200, "running")


def test_a_long_poll_without_news_ends_in_time(client: Client, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    etag = client.get(job["urls"]["self"]).headers["etag"]

    def poll(wait: int, etag: str, status: int) -> float:
        began = time.monotonic()
        answer = client.get(job["urls"]["self"], headers={"Prefer": f"wait={wait}", "If-None-Match": etag})
        assert answer.status_code == status
        return time.monotonic() - began

    assert 0.9 < quickest(lambda: poll(1, etag, 304), 2) < 2
    assert quickest(lambda: poll(10, '"0"', 200), 1) < 1


def test_a_submit_that_waits_answers_with_the_end(client: Client, server: Server, spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/jobs", json=spec, headers={"Prefer": "wait=20"})
        while not (found := client.get("/v1/jobs").json()["data"]):
            time.sleep(0.02)
        server.finish(found[0]["id"])
        answer = waiting.result(timeout=3)
    assert (answer.status_code, answer.json()["status"]) == (202, "succeeded")
    assert answer.headers["location"] == f"/v1/jobs/{found[0]['id']}"


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_is_asked(client: Client, server: Server, spec: dict[str, Any]) -> None:
    queued = client.job(spec)
    assert client.post(queued["urls"]["cancel"]).json()["status"] == "cancelled"
    assert client.post(queued["urls"]["cancel"], json={}).status_code == 200
    running = client.job(spec)
    claim = server.claim(running["id"])
    answer = client.post(running["urls"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert answer.json()["cancel_requested_at"]
    assert client.post(running["urls"]["cancel"]).status_code == 202
    with server.service.database.unit_of_work() as session:
        jobs.cancelled(session, claim.job_id, claim.fence)
    _until_seen(client, running["urls"]["self"], "cancelled")
    done = client.job(spec)
    server.finish(done["id"])
    problem(client.post(done["urls"]["cancel"]), 409, "job_already_terminal")
    problem(client.post(queued["urls"]["cancel"], json={"force": True}), 422, "invalid_body")


def test_an_ended_job_runs_again_as_a_new_one(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    problem(client.post(f"/v1/jobs/{job['id']}/retry"), 409, "job_not_terminal")
    server.finish(job["id"])
    answer = client.post(f"/v1/jobs/{job['id']}/retry", headers={"Idempotency-Key": "r"})
    assert answer.status_code == 202
    new = answer.json()
    assert (new["retry_of"], new["status"], new["spec_hash"]) == (job["id"], "queued", job["spec_hash"])
    assert answer.headers["location"] == f"/v1/jobs/{new['id']}" != f"/v1/jobs/{job['id']}"
    assert client.post(f"/v1/jobs/{job['id']}/retry", headers={"Idempotency-Key": "r"}).json()["id"] == new["id"]


def test_only_an_ended_job_can_be_removed(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    problem(client.delete(job["urls"]["self"]), 409, "job_not_terminal")
    server.finish(job["id"])
    assert client.delete(job["urls"]["self"]).status_code == 204
    problem(client.delete(job["urls"]["self"]), 404, "not_found")


def test_lists_are_filtered(client: Client, server: Server, spec: dict[str, Any], onnx_bytes: bytes) -> None:
    other = client.model(onnx_bytes)["id"]
    first = client.job({**spec, "labels": {"team": "vision", "run": "a:b"}})
    second = client.job({**spec, "labels": {"team": "audio"}})
    third = client.job({**spec, "model": other})
    server.finish(second["id"])

    def found(**query: Any) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=query).json()["data"]]

    assert found() == [third["id"], second["id"], first["id"]]
    assert found(status="succeeded") == [second["id"]]
    assert found(status=["succeeded", "queued", "running"]) == found()
    assert found(label="team") == [second["id"], first["id"]]
    assert found(label="team:vision") == found(label=["team:vision", "run:a:b"]) == [first["id"]]
    assert found(model_id=other) == [third["id"]]
    assert found(created_after=second["created_at"].replace("Z", "+00:00")) == [third["id"]]
    assert found(limit=1) == [third["id"]]
    body = problem(client.get("/v1/jobs", params={"staus": "failed"}), 422, "invalid_parameter")
    assert (body["errors"][0]["pointer"], body["hint"]) == ("/query/staus", "did you mean 'status'?")
    problem(client.get("/v1/jobs", params={"status": "done"}), 422, "invalid_parameter")
    for wrong in ("2026-01-01T00:00:00", "0.5", "1767225600"):
        problem(client.get("/v1/jobs", params={"created_after": wrong}), 422, "invalid_parameter")


def test_a_queue_that_is_full_says_when_to_come_back(server: Server, onnx_bytes: bytes) -> None:
    from core.access import projects

    with server.service.database.unit_of_work() as session:
        projects.create(session, "narrow", max_queued_jobs=1)
    with server.client("narrow") as client:
        spec = {"model": client.model(onnx_bytes)["id"], "quantize": "int8"}
        client.job(spec)
        answer = client.post("/v1/jobs", json=spec)
        problem(answer, 429, "quota_exceeded")
        assert int(answer.headers["retry-after"]) > 0


def test_validation_tells_what_would_happen_and_queues_nothing(client: Client, spec: dict[str, Any]) -> None:
    steps = [{"method": "magnitude_pruning", "sparsity": 0.5, "finetune": {"epochs": 2}}, {"method": "static_quantization"}]
    verdict = client.post("/v1/jobs/validate", json={**spec, "steps": steps}).json()
    assert verdict["valid"] is True
    assert verdict["errors"] == []
    assert [step["method"] for step in verdict["plan"]] == ["magnitude_pruning", "static_quantization"]
    assert verdict["plan"][0]["needs"]["labels"] is True
    assert verdict["plan"][1]["effect"] == {"file_size": "smaller", "dense_latency": "depends_on_hardware"}
    assert {(warning["code"], warning["step_index"]) for warning in verdict["warnings"]} == {
        ("no_dense_speedup", 0),
        ("few_calibration_examples", 1),
    }
    assert verdict["estimate"]["duration_seconds"] > 0
    assert verdict["estimate"]["peak_memory_bytes"] > 2**28
    assert verdict["normalized_spec"] == client.job({**spec, "steps": steps})["normalized_spec"]
    wrong = client.post("/v1/jobs/validate", json={**spec, "steps": [{"method": "magnitude_pruning", "sparsity": 50}]})
    assert wrong.status_code == 200
    assert wrong.json()["valid"] is False
    assert wrong.json()["errors"][0]["pointer"] == "/steps/0/sparsity"
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_a_submit_is_quick_when_the_broker_is_away(start: Any, onnx_bytes: bytes) -> None:
    away = start(broker_url="redis://127.0.0.1:1/0", auth="off")
    with Client(away, None) as client:
        spec = {"model": client.model(onnx_bytes)["id"], "quantize": "int8"}
        client.job(spec)

        def submit() -> float:
            began = time.perf_counter()
            client.job(spec)
            return time.perf_counter() - began

        assert quickest(submit, 0.5) < 0.5
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert ready.json()["checks"]["broker"]["status"] == "degraded"


def test_connections_are_kept_for_further_requests(client: Client, spec: dict[str, Any]) -> None:
    path = client.job(spec)["urls"]["self"]
    with httpx.Client(base_url=client.base_url, headers=client.headers, limits=httpx.Limits(max_connections=1)) as one:
        assert [one.get(path).status_code for _ in range(5)] == [200] * 5


def test_a_database_that_does_not_answer_is_told_apart_from_a_fault(start: Any, onnx_bytes: bytes) -> None:
    server = start(auth="off", sqlite_busy_seconds=0.2)
    with Client(server, None) as client, sqlite3.connect(server.service.settings.data_dir / "modelpress.db") as other:
        spec = {"model": client.model(onnx_bytes)["id"], "quantize": "int8"}
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/v1/jobs", json=spec)
        problem(answer, 503, "service_unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert client.get("/v1/jobs").json()["data"] == []
        other.rollback()
        assert client.post("/v1/jobs", json=spec).status_code == 202


def test_lists_leave_out_what_is_long_unless_it_is_asked_for(client: Client, server: Server, spec: dict[str, Any]) -> None:
    job = client.job(spec)
    claim = server.claim(job["id"])
    warnings = [{"code": "w", "message": "m" * 500, "step_index": None, "details": {"a": 1}}] * 12
    server.report(claim, jobs.Report(warnings=warnings))
    (listed,) = client.get("/v1/jobs").json()["data"]
    assert {"spec", "normalized_spec"} & listed.keys() == set()
    assert [len(item["message"]) for item in listed["warnings"]] == [300] * 10
    assert listed["warnings_count"] == 12
    answer = client.get("/v1/jobs", params={"expand": ["spec", "normalized_spec", "warnings", "error.details"]})
    (whole,) = answer.json()["data"]
    # A job that somebody asked for is answered from memory for less than a second.
    wait_until(lambda: whole == client.get(job["urls"]["self"]).json(), 2)
    problem(client.get("/v1/jobs?expand=artifacts"), 422, "invalid_parameter")
