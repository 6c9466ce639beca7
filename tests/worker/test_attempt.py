"""One attempt on a real database, a real blob store and a real child."""

import hashlib
import os
import re
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from core import jobs
from core.blobs.ingest import key_of
from core.database.db import Session
from core.database.tables import Artifact, Job, JobMetric, LedgerEntry
from core.errors import Unavailable
from engine.process.sandbox.probe import Isolation
from tests.clock import quickest
from tests.processes import gone, outside
from tests.results import summary
from tests.worker.conftest import Bench


def artifacts(session: Session, job: Job) -> list[Artifact]:
    """What the job published."""
    return jobs.artifacts(session, job.project_id, job.id)


def left_over(bench: Bench) -> list[Path]:
    """Files of jobs that are still there."""
    return [path for path in bench.work_dir.rglob("*") if path.is_file()]


def test_a_good_job_is_published_whole(bench: Bench) -> None:
    job = bench.run("succeed", steps=2)
    assert (job.status, job.outcome, job.error) == ("succeeded", "no_constraints", None)
    assert job.summary == summary(7).model_dump(mode="json")
    assert [(step["status"], step["metrics"]) for step in job.steps] == [("succeeded", {"test.top1": 0.5})] * 2
    assert [(warning["code"], warning["step_index"]) for warning in job.warnings] == [("no_dense_speedup", 0), ("no_dense_speedup", 1)]
    assert job.progress is not None
    assert (job.progress["fraction"], job.progress["steps_count"]) == (1.0, 2)
    lines = bench.log(job.id).splitlines()
    assert "a line of a library" in lines
    messages = [jobs.log_line(line)["message"] for line in lines]
    for message in (
        "read the model",
        "step 1 of 2 begins: magnitude_pruning",
        "step 2 of 2 is done: test.top1 0.5",
        "done: no_constraints",
    ):
        assert message in messages
    assert any(jobs.log_line(line)["level"] == "warning" for line in lines)
    step = ["phase", "step_started", "warning", "step_finished"]
    assert bench.events(job.id) == ["created", "started", "phase", *step, *step, "succeeded"]
    with bench.service.database.reader() as session:
        model, report = artifacts(session, job)
        assert (model.kind, model.format, model.filename, model.fence) == ("model", "onnx", "model.onnx", 1)
        assert report.filename == "report.json"
        points = session.scalars(select(JobMetric).where(JobMetric.job_id == job.id, JobMetric.step_index == 1)).all()
        assert [(point.name, point.step, point.value) for point in points] == [("train.loss", 1, 0.5), ("train.loss", 2, None)]
        assert model.blob_sha256 == hashlib.sha256(b"krowten").hexdigest()
    assert bench.service.blobs.store.size(key_of(model.blob_sha256)) == 7
    assert left_over(bench) == []


def test_a_heartbeat_that_is_late_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    beaten, late = jobs.heartbeat, threading.Event()

    def beat(session: Session, job_id: str, fence: int, *, lease_seconds: float, report: jobs.Report) -> jobs.Heartbeat:
        if report.events and not late.is_set():
            late.set()
            time.sleep(2)  # the child ends long before
        return beaten(session, job_id, fence, lease_seconds=lease_seconds, report=report)

    monkeypatch.setattr(jobs, "heartbeat", beat)
    job = bench.run("succeed_slowly")
    assert late.is_set()
    assert job.status == "succeeded"
    assert bench.events(job.id) == ["created", "started", "phase", "phase", "step_started", "warning", "step_finished", "succeeded"]
    assert "read the model" in bench.log(job.id)


@pytest.mark.parametrize("entry", ["succeed", "fail_well"])
def test_an_end_that_is_written_late_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    refused = 0

    def away(name: str) -> None:
        ending = getattr(jobs, name)

        def end(session: Session, *arguments: Any, **named: Any) -> object:
            nonlocal refused
            ended = ending(session, *arguments, **named)
            if refused < 2:
                refused += 1
                raise Unavailable("The database is away.")
            return ended

        monkeypatch.setattr(jobs, name, end)

    expected = bench.run(entry)
    away("finish")
    away("fail")
    job = bench.run(entry)
    assert refused == 2
    assert bench.events(job.id) == bench.events(expected.id)
    logs = [sorted(str(jobs.log_line(line)["message"]) for line in bench.log(found.id).splitlines()) for found in (job, expected)]
    assert logs[0] == logs[1]


def test_what_confines_the_child_stands_in_the_job(bench: Bench) -> None:
    isolation = bench.run("succeed").isolation
    assert isolation is not None
    assert isolation["tier"] >= 1
    assert "seccomp" in isolation["layers"]
    assert isolation["probe"]["tcp_connect"] == "denied"


def test_too_weak_a_confinement_fails_closed(bench: Bench) -> None:
    settings = bench.service.settings.model_copy(update={"isolation_minimum": 1})
    service = replace(bench.service, settings=settings)
    job_id = bench.submit()
    with bench.runner("succeed", service=service, isolation=Isolation(0, (), {"tcp_connect": "open"})):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["details"]) == ("isolation_unavailable", {"open": ["tcp_connect"]})
    assert "step_started" not in bench.events(job_id)


@pytest.mark.parametrize(
    ("entry", "code", "category", "message"),
    [
        ("fail_well", "pruning_impossible", "user", "a layer would be empty"),
        ("crash", "child_crashed", "internal", "SIGSEGV in phase 'pruning'"),
        ("burn", "timeout", "resource", "processor time"),
        ("end_silently", "child_protocol", "internal", "status 0"),
        ("talk_nonsense", "child_protocol", "internal", "no event"),
        ("talk_without_end", "child_protocol", "internal", "a line of more than 1048576 bytes"),
        ("stop_in_a_line", "child_protocol", "internal", "no end"),
        ("go_on_after_the_end", "child_protocol", "internal", "after its last word"),
        ("name_an_impossible_step", "child_protocol", "internal", "step 7 of 1"),
        ("announce_nothing", "child_protocol", "internal", "cannot be read"),
        ("announce_other_bytes", "child_protocol", "internal", "not the file that was announced"),
        ("announce_other_size", "child_protocol", "internal", "has 5 bytes, not 4"),
        ("announce_a_link", "child_protocol", "internal", "no plain file"),
        ("announce_through_a_linked_folder", "child_protocol", "internal", "no plain file"),
        ("announce_an_unknown_setting", "child_protocol", "internal", "no figures"),
        ("end_without_figures", "child_protocol", "internal", "without figures"),
        ("end_with_other_figures", "child_protocol", "internal", "another form"),
        ("end_with_endless_figures", "child_protocol", "internal", "more than"),
        ("change_the_result", "child_protocol", "internal", "not the file"),
        ("name_a_result_elsewhere", "child_protocol", "internal", "no name of a file"),
        ("announce_upwards", "child_protocol", "internal", "no name of a file"),
        ("tests.worker.greedy:multiply", "too_many_processes", "resource", "more processes"),
    ],
)
def test_a_bad_end_has_a_code_and_a_sentence(bench: Bench, entry: str, code: str, category: str, message: str) -> None:
    job = bench.run(entry)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["category"]) == (code, category)
    assert message in job.error["message"]
    assert job.attempt == 1
    with bench.service.database.reader() as session:
        assert artifacts(session, job) == []
    assert left_over(bench) == []


def test_the_step_that_failed_is_marked(bench: Bench) -> None:
    job = bench.run("fail_well", steps=2)
    assert [step["status"] for step in job.steps] == ["failed", "pending"]
    assert job.error is not None
    assert (job.error["step_index"], job.error["hint"]) == (0, "lower it")


def test_a_job_that_fails_for_missed_constraints_keeps_what_it_made(bench: Bench) -> None:
    job = bench.run("miss_constraints")
    assert (job.status, job.outcome) == ("failed", "constraints_not_met")
    assert job.summary == summary(9).model_dump(mode="json")
    with bench.service.database.reader() as session:
        assert [artifact.size_bytes for artifact in artifacts(session, job)] == [9]


def test_each_file_shows_the_figures_of_its_settings(bench: Bench) -> None:
    job = bench.run("publish_two_settings")
    assert job.summary is not None
    with bench.service.database.reader() as session:
        found = {artifact.filename: artifact.settings for artifact in artifacts(session, job)}
    wide, narrow = job.summary["settings"]
    assert found == {"model.onnx": [wide], "model-narrow.onnx": [narrow]}
    assert (wide["setting"]["name"], narrow["setting"]["name"]) == ("wide", "narrow")


def test_a_job_that_runs_too_long_is_stopped(bench: Bench) -> None:
    started = time.monotonic()
    job = bench.run("wait_long", limits={"timeout_seconds": 2})
    assert time.monotonic() - started < 5
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "timeout")
    assert gone(*pids(bench, job.id))


def test_a_killed_child_gets_another_attempt_while_there_are_some(bench: Bench) -> None:
    job = bench.run("be_killed", max_attempts=2)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", "child_killed", 2)
    assert bench.events(job.id).count("requeued") == 1


def test_every_attempt_is_charged_once(bench: Bench) -> None:
    job = bench.run("fail_once", max_attempts=3)
    with bench.service.database.reader() as session:
        entries = session.scalars(select(LedgerEntry).where(LedgerEntry.job_id == job.id).order_by(LedgerEntry.fence)).all()
    assert [(entry.fence, entry.ended) for entry in entries] == [(1, "retried"), (2, "retried"), (3, "failed")]


def pids(bench: Bench, job_id: str) -> list[int]:
    """What `wait_long` said about itself."""
    match = re.search(r"pids (\d+) (\d+) enclosed (\w+)", bench.log(job_id))
    assert match
    return [outside(int(pid)) if match[3] == "True" else int(pid) for pid in match.groups()[:2]]


def test_cancel_ends_the_whole_group_within_a_second(bench: Bench) -> None:
    def cancel() -> float:
        job_id = bench.submit()
        bench.wait(job_id, lambda job: "pids" in bench.log(job_id))
        members = pids(bench, job_id)
        started = time.monotonic()
        with bench.service.database.unit_of_work() as session:
            jobs.cancel(session, bench.job(job_id).project_id, job_id)
        job = bench.wait(job_id, lambda job: job.status == "cancelled")
        assert gone(*members)
        seconds = time.monotonic() - started
        assert [step["status"] for step in job.steps] == ["cancelled"]
        return seconds

    with bench.runner("wait_long"):
        assert quickest(cancel, 1) < 1
    assert left_over(bench) == []


def test_an_endless_log_is_cut_and_said_to_be(bench: Bench) -> None:
    job = bench.run("log_without_end")
    assert job.status == "succeeded"
    log = bench.log(job.id)
    assert 1 << 20 < len(log) < 5 << 20
    assert "[the " in log  # wherever a part is missing


def test_a_running_job_shows_its_log_and_progress(bench: Bench) -> None:
    job_id = bench.submit()
    with bench.runner("wait_long"):
        bench.wait(job_id, lambda job: job.status == "running" and "pids" in bench.log(job_id))
        assert bench.job(job_id).steps[0]["status"] == "running"


def test_a_worker_without_a_lease_kills_its_child_and_writes_nothing(bench: Bench) -> None:
    job_id = bench.submit()
    with bench.runner("wait_long") as runner:
        bench.wait(job_id, lambda job: "pids" in bench.log(job_id))
        members = pids(bench, job_id)
        runner.drain()  # the test takes the job itself
        with bench.service.database.unit_of_work() as session:
            job = session.get_one(Job, job_id)
            job.fence += 1
        assert gone(*members, seconds=2)
    job = bench.job(job_id)
    assert (job.status, job.fence) == ("running", 2)


def test_damaged_inputs_are_not_run(bench: Bench) -> None:
    job_id = bench.submit(b"precious weights")
    sha256 = hashlib.sha256(b"precious weights").hexdigest()
    stored = next(path for path in bench.work_dir.parent.rglob(sha256))
    stored.chmod(0o600)
    stored.write_bytes(b"precious wEights")
    with bench.runner("succeed"):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "checksum_mismatch")


def test_another_attempt_goes_on_from_the_checkpoint(bench: Bench) -> None:
    job_id = bench.submit(steps=2)
    with bench.runner("checkpoint_and_wait"):
        bench.wait(job_id, lambda job: job.checkpoint_sha256 is not None and job.steps[1]["status"] == "running")
    # leaving the block drained the runner: the job was given back
    job = bench.job(job_id)
    assert (job.status, job.attempt, job.checkpoint) == ("queued", 0, {"step_index": 0})
    assert [step["status"] for step in job.steps] == ["succeeded", "pending"]
    with bench.runner("checkpoint_and_wait"):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert (job.status, job.attempt) == ("succeeded", 1)
    assert "resumed from state after step 0" in bench.log(job_id)
    assert job.steps[0]["metrics"] == {"test.top1": 0.25}
    assert [event for event in bench.events(job_id) if event in ("released", "checkpoint", "started", "succeeded")] == [
        "started",
        "checkpoint",
        "released",
        "started",
        "succeeded",
    ]


def test_a_drained_worker_waits_for_the_next_checkpoint_only(bench: Bench) -> None:
    job_id = bench.submit(steps=1)
    settings = bench.service.settings.model_copy(update={"drain_seconds": 30})
    with bench.runner("checkpoint_slowly", service=replace(bench.service, settings=settings)) as runner:
        bench.wait(job_id, lambda job: job.checkpoint_sha256 is not None)
        started = time.monotonic()
        runner.drain()
        bench.wait(job_id, lambda job: job.status == "queued")
        assert time.monotonic() - started < 5


def test_a_checkpoint_outside_of_the_directory_is_not_read(bench: Bench) -> None:
    job = bench.run("checkpoint_elsewhere")
    assert job.status == "succeeded"
    assert "checkpoint" not in bench.events(job.id)
    assert "could not be stored" in bench.log(job.id)


def test_a_drained_worker_ends_its_job_if_it_ends_soon(bench: Bench) -> None:
    job_id = bench.submit()

    def drained() -> str:
        """What became of it: a machine that stalls may take longer than the second that the worker waits."""
        with bench.runner("succeed") as runner:
            bench.wait(job_id, lambda job: job.status != "queued")
            runner.drain()
            return bench.wait(job_id, lambda job: job.status != "running").status

    assert "succeeded" in (drained() for _ in range(3))


def held() -> tuple[int, int]:
    """Open descriptors and threads of this process."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def held_at_rest(seconds: float = 0.5) -> tuple[int, int]:
    """The same, once it has not changed for so long: the threads of an attempt that has been written may still be ending."""
    seen, since = held(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.02)
        if (now := held()) != seen:
            seen, since = now, time.monotonic()
    return seen


def test_an_attempt_leaves_no_descriptor_and_no_thread(bench: Bench) -> None:
    """Eight attempts may hold, at their end, no more than four did: one thing leaked by each would be eight too many."""
    with ExitStack() as stack:  # the pool of connections is full from the start: that it fills up later on is no leak
        for _ in range(bench.service.database.engine.pool.size()):
            stack.enter_context(bench.service.database.reader()).scalars(select(Job.id)).all()
    with bench.runner("succeed"):
        for count in (4, 8):
            before = held_at_rest()
            for job_id in [bench.submit() for _ in range(count)]:
                bench.wait(job_id, lambda job: job.status == "succeeded")
        deadline = time.monotonic() + 5
        while any(now > then for now, then in zip(held(), before, strict=True)) and time.monotonic() < deadline:
            time.sleep(0.02)
        descriptors, threads = held()
        assert descriptors <= before[0]
        assert threads <= before[1]


def test_a_drain_touches_nothing_through_a_link(bench: Bench) -> None:
    job_id = bench.submit()
    with bench.runner("lay_a_link_for_the_drain"):
        bench.wait(job_id, lambda job: "laid" in bench.log(job_id))
    assert not (bench.work_dir / "touched").exists()
    assert bench.job(job_id).status == "queued"
