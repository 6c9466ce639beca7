"""Whatever dies in the middle of a job, the job succeeds or says why it did not. On the whole real service."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from core import jobs
from core.service import Service
from tests.engine.child.test_launcher import gone
from tests.faults.house import LEASE_SECONDS, House, descendants

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    try:
        house.wait_until_ready()
        yield house
    finally:
        house.close()


@pytest.fixture(autouse=True)
def _whole_again(house: House) -> Iterator[None]:
    """Each test leaves a house that works."""
    yield
    house.until(lambda: house.answers() and len(house.pids("worker")) == 1, "the house is not whole again")
    assert house.broken_promises() == []


def broker_of(house: House) -> str:
    """The socket of the house's own broker."""
    (pid,) = house.pids("broker")
    return Path(f"/proc/{pid}/cmdline").read_text().split("unixsocket:")[1].split("\0")[0].strip()


def test_a_quiet_house(house: House) -> None:
    job = house.end(house.submit())
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert job["isolation"]["tier"] == 1


@pytest.mark.parametrize("role", ["worker", "child", "parent"])
def test_a_job_whose_worker_or_child_is_killed_succeeds_in_its_second_attempt(house: House, role: str) -> None:
    job_id = house.submit(1200)
    house.in_training(job_id)
    below = house.pids("child")
    assert house.hurt(role)
    assert gone(*below, seconds=2)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    assert house.broken_promises(orphans={*below}, load_artifacts=role == "worker") == []


def test_a_job_does_not_notice_that_the_api_is_killed(house: House) -> None:
    job_id = house.submit(1200)
    house.in_training(job_id)
    assert house.hurt("api")
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_no_queued_job_is_lost_with_the_broker_s_memory(house: House) -> None:
    ids = [house.submit(200) for _ in range(4)]
    with redis.Redis(unix_socket_path=broker_of(house)) as broker:
        broker.flushall()
    assert [house.end(job_id)["status"] for job_id in ids] == ["succeeded"] * 4


def test_a_job_that_is_submitted_while_the_broker_is_dead_runs(house: House) -> None:
    assert house.hurt("broker")
    started = time.monotonic()
    job_id = house.submit(200)
    assert time.monotonic() - started < 1
    assert house.end(job_id)["status"] == "succeeded"


def test_doubled_doorbells_start_a_job_once(house: House) -> None:
    with Service.open(house.settings.model_copy(update={"broker_url": f"redis+socket://{broker_of(house)}"})) as service:
        job_id = house.submit(500)
        for _ in range(20):
            service.doorbell.ring("cpu")
        job = house.end(job_id)
        with service.database.reader() as session:
            events = [event.type for event in jobs.events(session, job_id)]
    assert job["attempt"] == 1
    assert events.count("started") == events.count("succeeded") == 1


def test_a_worker_that_slept_past_its_lease_writes_nothing_and_kills_its_child(house: House) -> None:
    job_id = house.submit(1200)
    house.in_training(job_id)
    children = house.pids("child")
    house.hurt("worker", signal.SIGSTOP)
    house.wait(job_id, lambda job: job["status"] == "queued", seconds=LEASE_SECONDS + 5)
    house.hurt("worker", signal.SIGCONT)
    assert gone(*children, seconds=2)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)


def test_a_crash_is_named(house: House) -> None:
    job_id = house.submit(1200)
    house.in_training(job_id)
    house.hurt("child", signal.SIGSEGV)
    job = house.end(job_id)
    assert (job["status"], job["attempt"], job["error"]["code"]) == ("failed", 1, "child_crashed")
    assert "SIGSEGV in phase 'training'" in job["error"]["message"]


def test_a_child_that_hangs_is_stopped_at_its_deadline(house: House) -> None:
    job_id = house.submit(1200, limits={"timeout_seconds": 3})
    house.in_training(job_id)
    children = house.hurt("child", signal.SIGSTOP)
    job = house.end(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "timeout")
    assert gone(*children, seconds=1)


def test_cancel_takes_less_than_a_second(house: House) -> None:
    job_id = house.submit(20_000)
    house.in_training(job_id)
    children = house.pids("child")
    started = time.monotonic()
    house.client.json("POST", f"/v1/jobs/{job_id}/cancel", {})
    job = house.end(job_id)
    took = time.monotonic() - started
    assert job["status"] == "cancelled"
    assert took < 1
    assert gone(*children, seconds=1)


def test_a_killed_supervisor_leaves_no_process(house: House) -> None:
    """The last one: it ends the house, and a new one over the same data finishes the job."""
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
