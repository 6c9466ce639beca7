"""The rows of the fault matrix that need the whole service: each hurts a house in one way and asserts what must hold.

A row is a function of a house that works; it leaves one that works. What holds after every row is in `invariants.py`.
"""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import redis

from cli.client import ApiError
from core.blobs.ingest import key_of
from core.service import Service
from tests.engine.child.test_launcher import gone
from tests.faults.house import LEASE_SECONDS, House, descendants

Row = Callable[[House], None]


def quiet(house: House) -> None:
    """Nothing is hurt."""
    job = house.end(house.submit())
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert job["isolation"]["tier"] == 1


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
    ids = [house.submit(200) for _ in range(4)]
    with redis.Redis(unix_socket_path=broker_of(house)) as broker:
        broker.flushall()
    assert [house.end(job_id)["status"] for job_id in ids] == ["succeeded"] * 4


def dead_broker_at_submit(house: House) -> None:
    """The broker dies; a submission is answered at once all the same, and its job runs."""
    assert house.hurt("broker")
    started = time.monotonic()
    job_id = house.submit(200)
    assert time.monotonic() - started < 1
    assert house.end(job_id)["status"] == "succeeded"


def doubled_doorbells(house: House) -> None:
    """Twenty more bells than jobs; one attempt."""
    settings = house.settings.model_copy(update={"broker_url": f"redis+socket://{broker_of(house)}"})
    with Service.open(settings) as service:
        job_id = house.submit(500)
        for _ in range(20):
            service.doorbell.ring("cpu")
        assert house.end(job_id)["attempt"] == 1
    events = [event["type"] for event in house.client.json("GET", f"/v1/jobs/{job_id}/events?limit=100")["data"]]
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
    job_id = house.submit(50_000)
    house.in_training(job_id)
    children = house.pids("child")
    started = time.monotonic()
    house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {})
    job = house.end(job_id)
    took = time.monotonic() - started
    assert job["status"] == "cancelled"
    assert took < 1
    assert gone(*children, seconds=1)


def cancel_races_with_finish(house: House) -> None:
    """Cancelled somewhere around its end, a job has one end, and says so to everybody."""
    for pause in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4):
        job_id = house.submit(1)
        time.sleep(pause)
        assert _refusal(lambda: house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {})) in (None, "job_already_terminal")  # noqa: B023
        assert house.end(job_id)["status"] in ("cancelled", "succeeded")


def same_submit_fifty_times(house: House) -> None:
    """Fifty requests at once under one key make one job."""
    key = f"key-{time.time_ns()}"
    with ThreadPoolExecutor(50) as pool:
        ids = {job_id for job_id in pool.map(lambda _: house.submit(1, key=key, patient=True), range(50)) if job_id}
    assert len(ids) == 1
    assert house.end(ids.pop())["status"] == "succeeded"


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
        assert _refusal(lambda: house.client.open("GET", content).read()) == "checksum_mismatch"
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
    with house.client.open("GET", f"/v1/jobs/{job_id}/logs") as log:
        assert b"Resumed from a checkpoint" in log.read()


def _refusal(request: Callable[[], object]) -> str | None:
    """The code under which a request was refused, or how its answer was cut off; None if it was answered."""
    try:
        request()
    except ApiError as error:
        return str(error.problem["code"])
    except HTTPException as error:
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
    kill_supervisor,
)
"""Part of every test run."""
LONG: tuple[Row, ...] = (cancel_races_with_finish, same_submit_fifty_times, damaged_artifact, drain)
