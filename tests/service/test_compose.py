"""The services of docker-compose.yml, run by hand as processes with the same commands and environment, over a real PostgreSQL, Valkey and S3."""

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from core.settings import Settings
from tests.compose import ROOT, interpolate
from tests.faults.house import LEASE_SECONDS, SHORT
from tests.faults.parts import HOSTS, PartsHouse, parts_house
from tests.plain import ApiError, Client
from tests.proxy import Fault
from worker.app import JOIN_MARGIN_SECONDS

SECRETS = {"POSTGRES_PASSWORD": "a", "STORAGE_PASSWORD": "b"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartsHouse]:
    with parts_house(tmp_path_factory.mktemp("compose")) as found:
        yield found


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    document = yaml.safe_load(interpolate((ROOT / "docker-compose.yml").read_text(), SECRETS))
    services: dict[str, Any] = document["services"]
    return services


@pytest.mark.parametrize("missing", SECRETS)
def test_no_secret_has_a_default(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        interpolate((ROOT / "docker-compose.yml").read_text(), {name: value for name, value in SECRETS.items() if name != missing})


def test_a_worker_has_time_to_hand_its_job_on(services: dict[str, Any]) -> None:
    workers = {name: service for name, service in services.items() if "worker" in service.get("command", [])}
    assert workers.keys() == {"worker", "inspector", "worker-gpu"}
    for service in workers.values():
        seconds = float(service["stop_grace_period"].removesuffix("s"))
        assert seconds > Settings.model_fields["drain_seconds"].default + JOIN_MARGIN_SECONDS
        assert service["init"] is True


def test_our_own_containers_are_closed(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if "build" in service:
            assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"]), name


def test_what_depends_on_what_is_there(services: dict[str, Any]) -> None:
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert name in services
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[name]
    assert services["api"]["depends_on"]["bucket"] == {"condition": "service_completed_successfully"}


def test_upload_job_and_download(house: PartsHouse, tmp_path: Path) -> None:
    job = house.end(house.submit(100))
    assert (job["status"], job["attempt"], job["device"]) == ("succeeded", 1, "cpu")
    page = house.client.json("GET", f"/v1/jobs/{job['id']}/artifacts")["data"]
    model = next(item for item in page if item["kind"] == "model")
    house.client.download(f"/v1/artifacts/{model['id']}/content", tmp_path / "model.onnx")
    assert hashlib.sha256((tmp_path / "model.onnx").read_bytes()).hexdigest() == model["sha256"]
    with pytest.raises(ApiError) as refused:
        Client(house.client.base_url).json("GET", f"/v1/jobs/{job['id']}")
    assert refused.value.status == 401, "the file asks for keys"
    assert not any((folder / "blobs").exists() for folder in house.data_dirs()), "bytes lie in the object store"
    assert house.broken_promises(load_artifacts=True) == []


def test_a_host_that_is_stopped_hands_its_job_on(house: PartsHouse) -> None:
    job_id = house.submit(4000)
    job = house.in_training(job_id)
    stopped = next(host for host in HOSTS if f":{house.host(host).pid}:" in job["worker"])
    house.host(stopped).terminate()
    again = house.wait(job_id, lambda job: job["status"] == "running" and f":{house.host(stopped).pid}:" not in (job["worker"] or ""))
    assert house.host(stopped).wait(20) == 0
    assert again["attempt"] == 1, "being stopped is no failure of the job"
    assert house.end(job_id)["status"] == "succeeded"
    events = house.events(job_id)
    types = [event["type"] for event in events]
    assert [kind for kind in types if kind in ("started", "released", "resumed", "requeued", "succeeded")] == [
        "started",
        "released",
        "started",
        "resumed",
        "succeeded",
    ]
    assert events[types.index("resumed")]["data"]["iteration"] > 0
    assert _seconds(events, "released", "started") < LEASE_SECONDS, "at once, not when the lease would have ended"
    house.wait_until_whole()
    assert house.broken_promises() == []


def _seconds(events: list[dict[str, Any]], first: str, then: str) -> float:
    """From an event to the next one of another type."""
    position = next(index for index, event in enumerate(events) if event["type"] == first)
    later = next(event for event in events[position:] if event["type"] == then)
    return (datetime.fromisoformat(later["created_at"]) - datetime.fromisoformat(events[position]["created_at"])).total_seconds()


def test_logs_are_json_with_the_ids_of_requests_and_jobs(house: PartsHouse) -> None:
    house.client.send("POST", "/v1/jobs/validate", b"{}", {"Content-Type": "application/json", "X-Request-Id": "my-request-1"})
    job = house.end(house.submit(1))

    def records_of_all() -> list[dict[str, Any]]:
        return [json.loads(line) for line in house.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]

    def is_told(record: dict[str, Any]) -> bool:
        return bool(record.get("job_id") == job["id"] and record["event"] == "attempt ended")

    house.until(lambda: any(map(is_told, records_of_all())), "the worker does not say that the attempt has ended")
    records = records_of_all()
    assert any(record.get("request_id") == "my-request-1" and record["path"] == "/v1/jobs/validate" for record in records)
    told = [record for record in records if record.get("job_id") == job["id"]]
    assert {"attempt started", "attempt ended"} <= {record["event"] for record in told}
    assert all(record["fence"] == 1 for record in told)
    assert all({"timestamp", "level", "logger"} <= record.keys() for record in told)


def test_figures_are_those_of_what_happened(house: PartsHouse) -> None:
    token = house.compose.run("api", "keys", "create", "--name", "watch", "--scope", "admin", volume=house.folder / "api").strip()
    admin = Client(house.client.base_url, token)
    house.until(lambda: _figures(admin)['modelpress_workers{queue="cpu"}'] == len(HOSTS), "the workers have not said that they are there")
    before = _figures(admin)
    job_id = house.submit(4000)
    house.in_training(job_id)
    busy = _figures(admin)
    assert busy['modelpress_workers_busy{queue="cpu"}'] == 1
    assert busy['modelpress_jobs{queue="cpu",status="running"}'] == 1
    house.hurt("child")
    house.end(job_id)
    after = _figures(admin)

    def grown(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown('modelpress_jobs_finished_total{method="magnitude_pruning",status="succeeded"}') == 1
    assert grown('modelpress_attempts_ended_total{ended="retried"}') == 1
    assert grown('modelpress_attempts_ended_total{ended="succeeded"}') == 1
    assert grown("modelpress_claims_total") == 2
    assert grown("modelpress_leases_lost_total") == 0
    assert grown("modelpress_job_queue_seconds_count") == 1
    assert grown('modelpress_step_seconds_count{method="magnitude_pruning"}') == 1
    assert after['modelpress_workers_busy{queue="cpu"}'] == 0


def _figures(admin: Client) -> dict[str, float]:
    """Every sample of /metrics."""
    text = admin.send("GET", "/metrics").text
    return {match[1]: float(match[2]) for match in re.finditer(r"^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text, re.MULTILINE)}


@pytest.mark.parametrize(
    ("part", "status"), [("database", "failed"), ("broker", "degraded"), ("blobs", "failed")], ids=["database", "broker", "blobs"]
)
def test_readiness_names_the_part_that_is_away(house: PartsHouse, part: str, status: str) -> None:
    proxy = {"database": house.database_proxy, "broker": house.broker_proxy, "blobs": house.store_proxy}[part]
    house.until(lambda: _readiness(house)["status"] == "ok", "it is not ready")
    proxy.fault = Fault.REFUSE
    proxy.cut()
    try:
        house.until(lambda: _readiness(house)["checks"][part]["status"] == status, f"{part} is not named", 90)
        found = _readiness(house)
        assert found["status"] == status
        others = {name for name, check in found["checks"].items() if check["status"] == "failed"} - {part}
        assert not others
        assert "127.0.0.1" not in json.dumps(found)
    finally:
        proxy.fault = Fault.NONE
    house.until(lambda: _readiness(house)["status"] == "ok", "it is not ready again")


def _readiness(house: PartsHouse) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{house.client.base_url}/readyz", timeout=30).json()
    return found


def test_short_settings_are_settings() -> None:
    assert {name.removeprefix("MODELPRESS_").lower() for name in SHORT} <= Settings.model_fields.keys()
