"""Work folders that somebody removes, and workers that can take no job."""

import os
import shutil
import signal
import time

import pytest

from core import jobs
from tests.worker.conftest import Bench
from tests.worker.test_attempt import pids


def sweep(bench: Bench) -> None:
    """Remove the folder of all work, though the worker may be removing a part of it as well."""
    deadline = time.monotonic() + 5
    while bench.work_dir.exists() and time.monotonic() < deadline:
        shutil.rmtree(bench.work_dir, ignore_errors=True)


def test_a_swept_work_folder_costs_an_attempt_at_most(bench: Bench) -> None:
    job_id = bench.submit()
    with bench.runner("wait_long_the_first_time"):
        bench.wait(job_id, lambda job: "pids" in bench.log(job_id))
        sweep(bench)
        os.kill(pids(bench, job_id)[0], signal.SIGTERM)
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
        assert (job.status, job.attempt) == ("succeeded", 2)
        with bench.service.database.reader() as session:
            (requeued,) = [event for event in jobs.events(session, job_id, limit=100) if event.type == "requeued"]
        assert requeued.data["error"]["code"] == "storage_unavailable"
        sweep(bench)
        another = bench.submit(steps=2)
        assert bench.wait(another, lambda job: job.status in jobs.TERMINAL).status == "succeeded"


def test_a_runner_that_cannot_work_takes_no_job_and_says_why(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = bench.submit()
    with bench.runner("succeed") as runner:
        bench.wait(job_id, lambda job: job.status == "succeeded")
        assert runner.trouble() is None
        sweep(bench)
        bench.work_dir.write_text("a file")
        waiting = bench.submit()
        time.sleep(0.5)
        assert (bench.job(waiting).status, bench.job(waiting).attempt) == ("queued", 0)
        assert runner.trouble() == "there is no work folder: File exists"
        bench.work_dir.unlink()
        assert bench.wait(waiting, lambda job: job.status in jobs.TERMINAL).status == "succeeded"
        monkeypatch.setattr("worker.runner._PATIENCE_SECONDS", -1.0)
        deadline = time.monotonic() + 5
        while (trouble := runner.trouble()) is None and time.monotonic() < deadline:  # it clears up after its job
            time.sleep(0.02)
        assert trouble == "the claim loop stands still"
