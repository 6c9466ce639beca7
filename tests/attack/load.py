"""Honest load: many who ask, follow and send at once, and a project that has far more to do than the others."""

import asyncio
import json
import threading
import time
from datetime import UTC, datetime
from random import Random
from statistics import median

from sqlalchemy import delete, insert, update

from core import ids, jobs
from core.database.tables import Job, JobEvent
from tests.attack.connections import many, send
from tests.attack.target import Target

SECONDS = 6.0
POLLERS, STREAMS, UPLOADS = 200, 20, 10
POLL_SECONDS = 1.0
FOLLOWERS = 900
QUEUED, INSPECTIONS = 10_000, 1000


def pollers_streams_and_uploads(target: Target, random: Random) -> None:
    """200 poll each second, 20 follow a stream, 10 send files: an answer to a poll takes at most a second (p99)."""
    made = [target.job() for _ in range(20)]
    stop = threading.Event()
    sending = [threading.Thread(target=_send_files, args=(target, stop)) for _ in range(UPLOADS)]
    for thread in sending:
        thread.start()
    try:
        latencies = asyncio.run(_poll_and_follow(target, made, random))
    finally:
        stop.set()
        for thread in sending:
            thread.join()
        for job_id in made:
            target.call("POST", f"/v1/jobs/{job_id}/cancel")
    latencies.sort()
    p99 = latencies[int(0.99 * len(latencies))]
    assert len(latencies) > POLLERS, "nobody could poll twice"
    assert p99 <= 1.0, f"a poll took {p99:.2f} s (p99 of {len(latencies)})"


def _send_files(target: Target, stop: threading.Event) -> None:
    content = bytes(4 * 2**20)
    while not stop.is_set():
        upload = target.made("/v1/uploads")
        for number in (1, 2):
            path = f"{upload['urls']['self']}/parts/{number}"
            assert target.call("PUT", path, content, content_type="application/octet-stream")[0] == 200
        target.call("DELETE", upload["urls"]["self"])


async def _poll_and_follow(target: Target, made: list[str], random: Random) -> list[float]:
    deadline = time.monotonic() + SECONDS
    latencies: list[float] = []

    async def poll(job_id: str) -> None:
        await asyncio.sleep(random.random() * POLL_SECONDS)
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        while time.monotonic() < deadline:
            began = time.perf_counter()
            writer.write(target.head("GET", f"/v1/jobs/{job_id}"))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head[:100]
            length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(POLL_SECONDS)
        writer.close()

    async def follow(job_id: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        writer.write(target.head("GET", f"/v1/jobs/{job_id}/events/stream"))
        while (left := deadline - time.monotonic()) > 0:
            try:
                assert await asyncio.wait_for(reader.read(65536), left), "a stream was cut off"
            except TimeoutError:
                break
        writer.close()

    asked = [poll(made[number % len(made)]) for number in range(POLLERS)]
    await asyncio.gather(*asked, *(follow(made[number % len(made)]) for number in range(STREAMS)))
    return latencies


def followers_of_busy_jobs(target: Target, _: Random) -> None:
    """450 streams and as many polls that wait, of four projects; each of their jobs has news five times a second."""
    made: dict[str, str] = {}
    for key in (target.attacker, *(target.key(f"follower {number}") for number in range(3))):
        model, dataset = target.inputs(key)
        body = json.dumps(target.spec(model=model, dataset=dataset)).encode()
        made[target.made("/v1/jobs", body, key=key)["id"]] = key
    waiting = set(made)
    with target.service.database.unit_of_work() as session:
        while waiting and (claim := jobs.claim(session, "cpu", worker="w", device="cpu", lease_seconds=600)) is not None:
            waiting.discard(claim.job_id)
        fences = {job_id: session.get_one(Job, job_id).fence for job_id in made}
    assert not waiting
    with many(target, FOLLOWERS) as connections:
        for number, connection in enumerate(connections):
            job_id = list(made)[number % len(made)]
            path, more = (f"/v1/jobs/{job_id}/events/stream", []) if number % 8 < 4 else (f"/v1/jobs/{job_id}", ["Prefer: wait=60"])
            send(connection, target.head("GET", path, *more, key=made[job_id]))
        deadline = time.monotonic() + SECONDS / 2
        while time.monotonic() < deadline:
            with target.service.database.unit_of_work() as session:
                for job_id, fence in fences.items():
                    news = jobs.Report(events=[jobs.NewEvent("warning", {"message": "m" * 500})])
                    jobs.heartbeat(session, job_id, fence, lease_seconds=600, report=news)
            time.sleep(0.2)
        assert target.call("GET", "/v1/jobs", key=target.innocent)[0] == 200
    for job_id, key in made.items():
        target.call("POST", f"/v1/jobs/{job_id}/cancel", key=key)


def ten_thousand_jobs_of_another_project(target: Target, random: Random) -> None:
    """They make nobody else's submission, list or inspection take more than twice as long."""
    inputs = target.inputs(target.innocent)
    pattern_id = target.job()
    for _ in range(3):
        _innocent_seconds(target, inputs)
    before = [_innocent_seconds(target, inputs) for _ in range(15)]
    _drain_inspections(target)
    with target.service.database.unit_of_work() as session:
        pattern = session.get_one(Job, pattern_id)
        columns = {column.key: getattr(pattern, column.key) for column in Job.__table__.columns} | {
            "status": "queued",
            "finished_at": None,
            "lease_expires_at": None,
            "worker": None,
        }
        compress = columns | {"kind": "compress", "shown": True, "queue": target.settings.cpu_queue, "dataset_id": target.dataset}
        inspect = columns | {"kind": "inspect_model", "shown": False, "queue": target.settings.inspect_queue, "dataset_id": None}
        rows = [{**compress, "id": ids.new("job")} for _ in range(QUEUED)] + [{**inspect, "id": ids.new("job")} for _ in range(INSPECTIONS)]
        session.execute(insert(Job), rows)
    try:
        after = [_innocent_seconds(target, inputs) for _ in range(15)]
        assert _claims_until_inspected(target) <= 2, "an inspection waits for those of another project"
    finally:
        with target.service.database.unit_of_work() as session:
            made = [row["id"] for row in rows]
            for start in range(0, len(made), 500):
                session.execute(delete(JobEvent).where(JobEvent.job_id.in_(made[start : start + 500])))
                session.execute(delete(Job).where(Job.id.in_(made[start : start + 500])))
    for number, what in enumerate(("submission", "list")):
        was, is_now = (median(each[number] for each in measured) for measured in (before, after))
        assert is_now <= 2 * was, f"a {what} takes {1000 * is_now:.1f} ms instead of {1000 * was:.1f}"


def _innocent_seconds(target: Target, inputs: tuple[str, str]) -> tuple[float, float]:
    """How long a submission and a list of the innocent project take."""
    spec = {"model": inputs[0], "dataset": inputs[1], "steps": [{"method": "dynamic_quantization"}]}
    began = time.perf_counter()
    status, _, body = target.call("POST", "/v1/jobs", json.dumps(spec).encode(), key=target.innocent)
    submitted = time.perf_counter()
    assert status == 202, body
    assert target.call("GET", "/v1/jobs?limit=20", key=target.innocent)[0] == 200
    listed = time.perf_counter()
    time.sleep(0.05)
    return submitted - began, listed - submitted


def _drain_inspections(target: Target) -> None:
    """Begin and end every inspection that waits: no project has one under way."""
    while _claim_inspection(target) is not None:
        pass
    with target.service.database.unit_of_work() as session:
        ended = {"status": "cancelled", "finished_at": datetime.now(UTC), "lease_expires_at": None, "worker": None}
        session.execute(update(Job).where(Job.queue == target.settings.inspect_queue, Job.status == "running").values(ended))


def _claim_inspection(target: Target) -> jobs.Claim | None:
    with target.service.database.unit_of_work() as session:
        return jobs.claim(session, target.settings.inspect_queue, worker="w", device="cpu", lease_seconds=600)


def _claims_until_inspected(target: Target) -> int:
    """How many inspections are begun before that of a model which the innocent project uploads now."""
    _claim_inspection(target)
    model, _ = target.inputs(target.innocent)
    for number in range(1, 50):
        claim = _claim_inspection(target)
        if claim is not None and claim.model is not None and claim.model.id == model:
            return number
    return 50


ATTACKS = (pollers_streams_and_uploads, followers_of_busy_jobs, ten_thousand_jobs_of_another_project)
