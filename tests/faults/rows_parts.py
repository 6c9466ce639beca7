"""The rows of the fault matrix that need PostgreSQL, a broker over TCP, S3 and several hosts; see `parts.py`."""

import importlib.util
import json
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path

from sqlalchemy import select

from core.database.clock import db_now
from core.database.tables import Lease
from core.operations.reconciler import LEASE
from core.service import Service
from tests.faults.house import LEASE_SECONDS, SHORT
from tests.faults.parts import HOSTS, PartsHouse
from tests.faults.rows import same_weights
from tests.plain import ApiError, Client
from tests.processes import descendants
from tests.proxy import Fault, FaultProxy
from tests.servers import free_port

PartsRow = Callable[[PartsHouse], str | None]
ANSWER_SECONDS = 0.1
"""How long a submission may take while there is no broker."""


def broker_unreachable(house: PartsHouse) -> str:
    """Nobody listens where the broker was: submissions are answered at once, and their jobs run."""
    return _without_broker(house, Fault.REFUSE)


def broker_never_answers(house: PartsHouse) -> str:
    """The broker accepts connections and says nothing: submissions are answered at once, and their jobs run."""
    return _without_broker(house, Fault.BLACK_HOLE)


def _without_broker(house: PartsHouse, fault: Fault) -> str:
    took, ids = [], []
    with misbehaving(house.broker_proxy, fault):
        for _ in range(15):
            started = time.perf_counter()
            ids.append(house.submit(1))
            took.append(time.perf_counter() - started)
        early = sum(house.end(job_id)["status"] == "succeeded" for job_id in ids[:5])
    assert early == 5, "workers find jobs by themselves"
    assert [house.end(job_id)["status"] for job_id in ids] == ["succeeded"] * len(ids)
    assert house.broker_proxy.hits > 0
    assert statistics.median(took) < ANSWER_SECONDS
    return f"submit p50 {1000 * statistics.median(took):.1f} ms, slowest {1000 * max(took):.1f} ms of {len(took)}"


def postgres_crashes(house: PartsHouse) -> None:
    """PostgreSQL is restarted as after a crash (`pg_ctl restart -m immediate`) while a job trains: the job goes on or again, and succeeds."""
    job_id = house.submit(2500)
    house.in_training(job_id)
    house.postgres.stop(signal.SIGQUIT)
    time.sleep(0.5)
    house.postgres.start()
    assert house.end(job_id)["status"] == "succeeded"


def postgres_is_away_longer_than_a_lease(house: PartsHouse) -> None:
    """Without a database the worker ends its child before the lease does; the job goes on from its checkpoint afterwards."""
    job_id = house.submit(6000)
    house.wait(job_id, lambda job: "checkpoint" in house.event_types(job["id"]))
    children = house.pids("child")
    with misbehaving(house.database_proxy, Fault.REFUSE):
        house.until(lambda: not set(children) & set(house.pids("child")), "the child goes on without a lease", LEASE_SECONDS + 5)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert "resumed" in house.event_types(job_id)


def commits_without_an_answer(house: PartsHouse) -> str:
    """Answers of PostgreSQL are lost, so that nobody knows what was committed; twenty submissions under keys, and one job for each."""
    stop = threading.Event()

    def disturb() -> None:
        while not stop.wait(0.15):
            house.database_proxy.fault = Fault.CUT_ANSWERS
            time.sleep(0.05)
            house.database_proxy.fault = Fault.NONE

    before = house.database_proxy.hits
    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(lambda number: _insist(house, f"{time.time_ns()}-{number}"), range(20)))
    finally:
        stop.set()
        disturber.join()
        house.database_proxy.fault = Fault.NONE
    assert len(set(ids)) == 20
    assert [house.end(job_id)["status"] for job_id in ids] == ["succeeded"] * 20
    return f"{house.database_proxy.hits - before} connections lost an answer"


def _insist(house: PartsHouse, key: str) -> str:
    """Submit until there is an answer, as a pipeline would."""
    while True:
        try:
            return house.submit(1, key=key, patient=True)
        except ApiError as error:
            if error.status != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(0.1)


def store_answers_503(house: PartsHouse) -> None:
    """The object store is overloaded while a job publishes: the job succeeds all the same."""
    _store(house, Fault.UNAVAILABLE, seconds=2.0)


def store_is_slow(house: PartsHouse) -> None:
    """The object store takes its time."""
    _store(house, Fault.SLOW, seconds=4.0)


def store_cuts_answers(house: PartsHouse) -> None:
    """Answers of the object store end in the middle: never is half a file taken for a whole one."""
    _store(house, Fault.CUT_SHORT, seconds=2.0)


def _store(house: PartsHouse, fault: Fault, *, seconds: float) -> None:
    whole = house.submit(1500, export=["safetensors"])
    assert house.end(whole)["status"] == "succeeded"
    before = house.store_proxy.hits
    job_id = house.submit(1500, export=["safetensors"], max_attempts=10)
    house.in_training(job_id)
    with misbehaving(house.store_proxy, fault):
        time.sleep(seconds)
        house.until(lambda: house.store_proxy.hits > before, "the object store was not asked")
    assert house.end(job_id, 120)["status"] == "succeeded"
    assert same_weights(house.weights(job_id), house.weights(whole))


def host_is_stopped(house: PartsHouse) -> str:
    """A host is asked to stop in the middle of a training: another one goes on at once from there, in the same attempt, to the same weights."""
    whole = house.submit(2000, export=["safetensors"])
    assert house.end(whole)["status"] == "succeeded"
    job_id = house.submit(2000, export=["safetensors"])
    job = house.in_training(job_id)
    stopped = next(host for host in HOSTS if f":{house.host(host).pid}:" in job["worker"])
    started = time.monotonic()
    house.host(stopped).terminate()
    house.wait(
        job_id, lambda job: job["status"] == "running" and job["worker"] is not None and f":{house.host(stopped).pid}:" not in job["worker"]
    )
    took = time.monotonic() - started
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    types = house.event_types(job_id)
    assert types.index("released") < types.index("resumed")
    assert "requeued" not in types
    assert same_weights(house.weights(job_id), house.weights(whole))
    return f"handed on in {took:.2f} s"


def clock_of_a_host_jumps(house: PartsHouse) -> str:
    """Two hosts whose clocks are 30 days ahead join, and one becomes the reconciler: no lease ends early, and one of a dead host ends in time."""
    port = free_port()
    ahead = {"LD_PRELOAD": str(_other_clock()), "FAKETIME": "+30d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    others = []
    for service, own_port in (("worker", None), ("api", port)):
        volume = house.folder / f"ahead-{service}-{port}"
        volume.mkdir()
        others.append(house.compose.start(service, volume=volume, log=volume / "log", port=own_port, **SHORT, **ahead))
    worker, api = others
    log = house.folder / f"ahead-worker-{port}" / "log"
    try:
        house.until(lambda: b"isolation chosen" in log.read_bytes(), "the worker of another time does not start")
        ids = [house.submit(10_000) for _ in range(1 + len(HOSTS))]  # one for each host
        under_way = [house.in_training(job_id) for job_id in ids]
        theirs = next(job["id"] for job in under_way if _is_of(worker, job["worker"]))
        house.host("api").terminate()
        house.client = Client(f"http://127.0.0.1:{port}", house.token)
        house.until(lambda: _is_of(api, _reconciler(house)), "the other API does not become the reconciler")
        taken_over = time.monotonic()
        while time.monotonic() - taken_over < 2 * LEASE_SECONDS:
            assert _is_of(api, _reconciler(house))
            time.sleep(0.1)
        assert [(job["status"], job["attempt"]) for job in map(house.job, ids)] == [("running", 1)] * len(ids)
        for host in HOSTS:
            house.host(host).kill()
        for job_id in ids:  # it takes those of the dead hosts back, and gives them to the host of its own time
            job = house.end(job_id, 300)  # all of them, one after the other
            assert (job["status"], job["attempt"]) == ("succeeded", 1 if job_id == theirs else 2)
            assert house.event_types(job_id).count("requeued") == job["attempt"] - 1
        day = datetime.fromisoformat(json.loads(log.read_text().splitlines()[-1])["timestamp"])
        hour = parsedate_to_datetime(house.client.send("GET", "/livez").headers["Date"])
        days = [round((clock - datetime.now(UTC)) / timedelta(days=1)) for clock in (day, hour)]
        assert days == [30, 30]
        return "the clocks of a worker and of the reconciler were 30 days ahead"
    finally:
        for process in others:
            process.terminate()
        for process in others:
            process.wait(20)
        house.client = Client(f"http://127.0.0.1:{house.port}", house.token)


def _is_of(program: "subprocess.Popen[bytes]", owner: str) -> bool:
    """Whether `owner`, a host, a process and more, is the program or one that it started."""
    return any(f":{pid}:" in owner for pid in (program.pid, *descendants(program.pid)))


def _other_clock() -> Path:
    """The library that moves the clock of a process which is started with it (libfaketime)."""
    found = importlib.util.find_spec("libfaketime")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


def _reconciler(house: PartsHouse) -> str:
    """Who has the database's lease for it: host, process and object; empty while nobody has."""
    with Service.open(house.settings) as service, service.database.reader() as session:
        return session.scalar(select(Lease.owner).where(Lease.name == LEASE, Lease.expires_at > db_now())) or ""


@contextmanager
def misbehaving(proxy: FaultProxy, fault: Fault) -> Iterator[None]:
    """The part behind the proxy is hurt inside of the block."""
    proxy.fault = fault
    if fault in (Fault.REFUSE, Fault.BLACK_HOLE):
        proxy.cut()
    try:
        yield
    finally:
        proxy.fault = Fault.NONE
        if fault is Fault.BLACK_HOLE:
            proxy.cut()  # what was swallowed is not answered later


PARTS: tuple[PartsRow, ...] = (
    broker_unreachable,
    broker_never_answers,
    postgres_crashes,
    postgres_is_away_longer_than_a_lease,
    commits_without_an_answer,
    store_answers_503,
    store_is_slow,
    store_cuts_answers,
    host_is_stopped,
    clock_of_a_host_jumps,
)
