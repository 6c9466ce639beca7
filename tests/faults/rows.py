"""The rows of the fault matrix that need the whole service: each hurts a house in one way and asserts what must hold.

A row is a function of a house that works; it leaves one that works. What holds after every row is in `invariants.py`.
"""

import base64
import hashlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import redis

from core.blobs.ingest import key_of
from core.database.writer import writer
from core.service import Service
from tests.clock import quickest
from tests.faults.house import LEASE_SECONDS, House, examples
from tests.faults.webhooks import webhooks_come_through_kills
from tests.plain import ApiError
from tests.processes import descendants, gone

Row = Callable[[House], str | None]
"""May return a figure that is worth a line."""


def quiet(house: House) -> None:
    """Nothing is hurt."""
    job = house.end(house.submit())
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert job["isolation"]["tier"] >= 1


def kill_worker(house: House) -> None:
    """The worker dies; its child dies with it, and another attempt succeeds."""
    _kill_above_child(house, "worker")


def kill_child(house: House) -> None:
    """The child dies; another attempt succeeds."""
    _kill_above_child(house, "child")


def kill_parent(house: House) -> None:
    """The parent of job children dies and takes the child along; another attempt succeeds."""
    _kill_above_child(house, "parent")


def _kill_above_child(house: House, role: str) -> None:
    job_id = house.submit(1200)
    house.in_training(job_id)
    children = house.pids("child")
    assert house.hurt(role)
    assert gone(*children, seconds=2)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)


def kill_api(house: House) -> None:
    """The API dies; the job does not notice."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    assert house.hurt("api")
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def flush_broker(house: House) -> None:
    """The broker forgets everything; every queued job runs."""
    _flush(house, 4)


def flush_broker_of_fifty(house: House) -> str:
    """The same with fifty jobs in the queue."""
    return f"{_flush(house, 50)} of 50 were queued when the broker was flushed"


def _flush(house: House, count: int) -> int:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: house.submit(20), range(count)))
    with redis.Redis(unix_socket_path=broker_of(house)) as broker:
        broker.flushall()
    waiting = sum(house.job(job_id)["status"] == "queued" for job_id in ids)
    ends = [house.end(job_id, 300) for job_id in ids]
    assert [(job["status"], job["attempt"]) for job in ends] == [("succeeded", 1)] * count
    assert waiting >= count // 2
    return waiting


def dead_broker_at_submit(house: House) -> None:
    """The broker dies; a submission is answered at once all the same, and its job runs."""

    def submit() -> float:
        assert house.hurt("broker")
        started = time.monotonic()
        job_id = house.submit(200)
        seconds = time.monotonic() - started
        assert house.end(job_id)["status"] == "succeeded"
        return seconds

    assert quickest(submit, 1) < 1


def doubled_doorbells(house: House) -> None:
    """Twenty more bells than jobs; one attempt."""
    settings = house.settings.model_copy(update={"broker_url": f"redis+socket://{broker_of(house)}"})
    with Service.open(settings) as service:
        job_id = house.submit(500)
        for _ in range(20):
            service.doorbell.ring("cpu")
        assert house.end(job_id)["attempt"] == 1
        service.doorbell.ring("cpu")  # late: there is nothing left to do
        time.sleep(0.5)
    events = house.event_types(job_id)
    assert events.count("started") == events.count("succeeded") == 1


def zombie_worker(house: House) -> None:
    """A worker sleeps past its lease; it wakes, writes nothing and kills its child."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    children = house.pids("child")
    house.hurt("worker", signal.SIGSTOP)
    house.wait(job_id, lambda job: job["status"] == "queued", seconds=LEASE_SECONDS + 10)
    house.hurt("worker", signal.SIGCONT)
    assert gone(*children, seconds=2)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)


def stopped_within_a_transaction(house: House) -> str:
    """A worker is stopped while it holds the lock of the embedded database: it is killed, others write on, and its job is tried again."""
    job_id = house.submit(6000)
    house.in_training(job_id)
    children = set(house.pids("child"))
    (worker,) = (pid for pid in house.pids("worker") if children & set(descendants(pid)))
    database, tries = house.settings.data_dir / "modelpress.db", 0
    while True:
        os.kill(worker, signal.SIGSTOP)
        tries += 1
        if writer(database) == worker:
            break
        os.kill(worker, signal.SIGCONT)
        assert not house.has_ended(job_id), f"not caught in a transaction in {tries} tries"
    started = time.monotonic()
    other = house.submit(10)  # waits for the lock, and gets it
    seconds = time.monotonic() - started
    assert (house.end(other)["status"], house.end(job_id)["status"], house.job(job_id)["attempt"]) == ("succeeded", "succeeded", 2)
    return f"caught after {tries} tries, others waited for {seconds:.1f} s"


def crash(house: House) -> None:
    """A segmentation fault is named and not tried again."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    house.hurt("child", signal.SIGSEGV)
    job = house.end(job_id)
    assert (job["status"], job["attempt"], job["error"]["code"]) == ("failed", 1, "child_crashed")
    assert "SIGSEGV in phase 'training'" in job["error"]["message"]


def hang(house: House) -> None:
    """A child that hangs is stopped at its deadline."""
    job_id = house.submit(1200, limits={"timeout_seconds": 3})
    house.in_training(job_id)
    children = house.hurt("child", signal.SIGSTOP)
    job = house.end(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "timeout")
    assert gone(*children, seconds=1)


def cancel(house: House) -> None:
    """A running job is cancelled within a second, its whole group gone."""
    _cancel(house)


def cancel_of_two_processes(house: House) -> None:
    """The same for a job that trains in two processes."""
    _cancel(house, processes=2, device="cpu", devices=2)


def _cancel(house: House, *, processes: int = 1, **spec: Any) -> None:
    def seconds() -> float:
        job_id = house.submit(200_000, **spec)
        house.in_training(job_id)
        spare = {pid for child in house.pids("spare") for pid in (child, *descendants(child))}
        group = [pid for parent in house.pids("parent") for pid in descendants(parent) if pid not in spare]
        ranks = [pid for pid in group if b"engine.jobs.parallel.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(ranks) == (0 if processes == 1 else processes)
        started = time.monotonic()
        house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {})
        assert house.end(job_id)["status"] == "cancelled"
        assert gone(*group)
        return time.monotonic() - started

    assert quickest(seconds, 1) < 1


def cancel_races_with_finish(house: House) -> str:
    """Cancelled at any time from its submission to its end, a job has one end, and says so to everybody."""
    started = time.monotonic()
    house.end(house.submit(1))
    whole = time.monotonic() - started
    ends = []
    for part in (0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.2, 3):
        job_id = house.submit(1)
        time.sleep(part * whole)
        refused = _refusal(lambda: house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {}))  # noqa: B023
        ends.append(house.end(job_id)["status"])
        assert (refused, ends[-1]) in ((None, "cancelled"), (None, "succeeded"), ("job_already_terminal", "succeeded"))
    assert (ends[0], ends[-1]) == ("cancelled", "succeeded")
    return f"{ends.count('cancelled')} of {len(ends)} were cancelled, the others succeeded"


def same_submit_fifty_times(house: House) -> None:
    """Fifty requests at once under one key make one job."""
    key = f"key-{time.time_ns()}"
    with ThreadPoolExecutor(50) as pool:
        ids = {job_id for job_id in pool.map(lambda _: house.submit(1, key=key, patient=True), range(50)) if job_id}
    assert len(ids) == 1
    assert house.end(ids.pop())["status"] == "succeeded"


def resume(house: House) -> None:
    """Killed in the middle of a training, or between two steps, a job goes on from there and ends with the weights of an undisturbed one."""
    finetune = {"iterations": 1500, "batch_size": 16, "learning_rate": 0.001}
    steps = [{"method": "magnitude_pruning", "sparsity": sparsity, "finetune": finetune} for sparsity in (0.5, 0.8)]
    whole = house.submit(steps=steps, export=["safetensors"])
    assert house.end(whole)["status"] == "succeeded"

    def is_under_way(job: dict[str, Any]) -> bool:
        return "checkpoint" in house.event_types(job["id"])

    def has_done_a_step(job: dict[str, Any]) -> bool:
        # The checkpoint of the first training was written before the second step began, at its end or in its middle and then anew.
        return house.event_types(job["id"]).count("step_started") == 2

    for role, moment, trainings in (("worker", is_under_way, 0), ("child", has_done_a_step, 1)):
        job_id = house.submit(steps=steps, export=["safetensors"])
        house.wait(job_id, moment)
        assert house.hurt(role)
        job = house.end(job_id)
        assert (job["status"], job["attempt"]) == ("succeeded", 2)
        resumed = _resumed(house, job_id)
        assert resumed["trainings_done"] == trainings
        assert trainings or 0 < resumed["iteration"] < finetune["iterations"]
        assert same_weights(house.weights(job_id), house.weights(whole))


def _resumed(house: House, job_id: str) -> dict[str, Any]:
    """What the job's history says about the checkpoint that the last attempt began from."""
    (event,) = [event for event in house.events(job_id) if event["type"] == "resumed"]
    data: dict[str, Any] = event["data"]
    return data


def same_weights(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    """Bit by bit."""
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


def upload_is_cut_off(house: House) -> None:
    """A client hangs up in the middle of a part, finds out what has arrived, and goes on; one that never returns leaves nothing."""
    content = examples(seed=1)
    first, second = content[: len(content) // 2], content[len(content) // 2 :]
    upload = house.client.json("POST", "/v1/uploads", {})
    parts = f"/v1/uploads/{upload['id']}/parts"
    house.client.send("PUT", f"{parts}/1", first, _part(first))
    _hang_up(house, "PUT", f"{parts}/2", second, _part(second))
    _hang_up(house, "POST", "/v1/datasets?name=cut&format=npz", content, {"Content-Type": "application/octet-stream"})
    arrived = house.client.json("GET", f"/v1/uploads/{upload['id']}")["parts"]
    assert [(part["number"], part["size_bytes"]) for part in arrived] == [(1, len(first))]
    house.client.send("PUT", f"{parts}/2", second, _part(second))
    house.client.json("POST", f"/v1/uploads/{upload['id']}/complete", {})
    made = house.client.json("POST", "/v1/datasets?name=whole&format=npz", {"upload_id": upload["id"]})
    assert (made["sha256"], made["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert "cut" not in {item["name"] for item in house.client.json("GET", "/v1/datasets")["data"]}


def _part(content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return {"Content-Type": "application/octet-stream", "Content-Digest": f"sha-256=:{digest}:"}


def _hang_up(house: House, verb: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    """Send the head and half of the body, then reset the connection."""
    head = [f"{verb} {path} HTTP/1.1", f"Host: 127.0.0.1:{house.port}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection(("127.0.0.1", house.port)) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body[: len(body) // 2])
        time.sleep(0.3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def damaged_artifact(house: House) -> None:
    """One flipped bit in a stored file is never served: it is said, and a download leaves no file behind."""
    job_id = house.submit(1)
    house.end(job_id)
    artifact = next(item for item in house.client.json("GET", f"/v1/jobs/{job_id}/artifacts")["data"] if item["kind"] == "model")
    stored = house.settings.data_dir / "blobs" / key_of(artifact["sha256"])
    good = stored.read_bytes()
    mode = stored.stat().st_mode
    stored.chmod(0o600)
    try:
        stored.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
        content, target = f"/v1/artifacts/{artifact['id']}/content", house.folder / "downloaded"
        assert _refusal(lambda: house.client.send("GET", content).read()) == "checksum_mismatch"
        assert _refusal(lambda: house.client.download(content, target)) == "checksum_mismatch"
        assert not target.exists()
    finally:
        stored.write_bytes(good)
        stored.chmod(mode)


def kill_supervisor(house: House) -> None:
    """The supervisor is killed: no process is left, and a new service over the same data finishes the job."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    everyone = descendants(house.process.pid)
    assert len(everyone) >= 5
    house.process.kill()
    house.process.wait()
    assert gone(*everyone, seconds=5)
    house.restart()
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)


def drain(house: House) -> None:
    """The whole service is asked to stop in the middle of a job: it does so in time, and the job goes on from there in the same attempt."""
    job_id = house.submit(4000)
    house.in_training(job_id)
    everyone = descendants(house.process.pid)
    started = time.monotonic()
    house.process.terminate()
    assert house.process.wait(20) == 0
    assert time.monotonic() - started < 10
    assert gone(*everyone, seconds=1)
    house.restart()
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert "Resumed from a checkpoint" in house.client.send("GET", f"/v1/jobs/{job_id}/logs").text


def _refusal(request: Callable[[], object]) -> str | None:
    """The code under which a request was refused, or how its answer was cut off; None if it was answered."""
    try:
        request()
    except ApiError as error:
        return str(error.code)
    except OSError as error:
        return type(error).__name__
    return None


def broker_of(house: House) -> str:
    """The socket of the house's own broker."""
    (pid,) = house.pids("broker")
    return Path(f"/proc/{pid}/cmdline").read_text().split("unixsocket:")[1].split("\0")[0].strip()


QUICK: tuple[Row, ...] = (
    quiet,
    kill_worker,
    kill_child,
    kill_parent,
    kill_api,
    flush_broker,
    dead_broker_at_submit,
    doubled_doorbells,
    zombie_worker,
    crash,
    hang,
    cancel,
    webhooks_come_through_kills,
    resume,
    kill_supervisor,
)
"""Part of every test run."""
LONG: tuple[Row, ...] = (
    stopped_within_a_transaction,
    cancel_of_two_processes,
    flush_broker_of_fifty,
    upload_is_cut_off,
    cancel_races_with_finish,
    same_submit_fifty_times,
    damaged_artifact,
    drain,
)
