"""Rows of the fault matrix about processes that stand still, that something outside ends, and folders that something outside removes."""

import os
import shutil
import signal
import time

from tests.faults.house import House
from tests.processes import gone


def stalled_parent(house: House) -> None:
    """The parent of job children is stopped for good: the job that it started ends as it would have, the next one gets another parent."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    stopped = house.hurt("parent", signal.SIGSTOP)
    assert stopped
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    following = [house.end(house.submit(50)) for _ in range(2)]
    assert [(job["status"], job["attempt"]) for job in following] == [("succeeded", 1)] * 2
    _release_idle(house, stopped)


def stalled_parent_at_the_start(house: House) -> None:
    """The same while no job runs: the next one waits until nobody answers, and runs."""
    house.wait_until_whole()
    stopped = house.hurt("parent", signal.SIGSTOP)
    assert stopped
    jobs = [house.end(house.submit(50), 120) for _ in range(2)]
    assert [(job["status"], job["attempt"]) for job in jobs] == [("succeeded", 1)] * 2
    _release_idle(house, stopped)


def _release_idle(house: House, stopped: list[int]) -> None:
    """A worker that had no job has not noticed, and its parent goes on; those that were replaced are gone."""
    for pid in stopped:
        if pid in house.pids("parent"):
            os.kill(pid, signal.SIGCONT)
    workers = len(house.pids("worker"))
    house.until(lambda: len(house.pids("parent")) <= workers, "a parent that was replaced is still there")


def kill_measuring(house: House) -> None:
    """The process that measures is killed: that is nobody's fault, and another attempt succeeds."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    assert house.hurt("measuring")
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 2)
    (error,) = [event["data"]["error"] for event in house.events(job_id) if event["type"] == "requeued"]
    assert (error["code"], error["category"]) == ("child_killed", "transient")


def swept_work_folder(house: House) -> None:
    """Somebody removes all folders of work: it costs the running job an attempt at most, and no job after it anything."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    for data_dir in house.data_dirs():
        shutil.rmtree(data_dir / "work", ignore_errors=True)
    job = house.end(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] <= 2
    job = house.end(house.submit(50))
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def stopped_workers_are_seen(house: House) -> None:
    """No worker answers: `/readyz` says so within half a minute, and that all is well once they go on."""

    def workers() -> str:
        return str(house.client.json("GET", "/readyz")["checks"]["workers"]["status"])

    house.until(lambda: workers() == "ok", "the workers are not there")
    stopped = house.hurt("worker", signal.SIGSTOP)
    try:
        house.until(lambda: workers() == "degraded", "nobody notices", 45)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    house.until(lambda: workers() == "ok", "nobody notices that they are back", 45)
    assert house.end(house.submit(50))["status"] == "succeeded"


def stopped_child_goes_on(house: House) -> None:
    """A child that stood still for a while is no worse for it."""
    job_id = house.submit(1200)
    house.in_training(job_id)
    stopped = house.hurt("child", signal.SIGSTOP)
    time.sleep(6)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    job = house.end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    assert gone(*stopped, seconds=5)


STOPS = (stalled_parent, stalled_parent_at_the_start, kill_measuring, swept_work_folder, stopped_workers_are_seen, stopped_child_goes_on)
