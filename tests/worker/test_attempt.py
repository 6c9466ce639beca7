"""One attempt on a real database, a real blob store and a real child."""

import hashlib
import os
import re
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from core import jobs
from core.blobs.ingest import key_of
from core.database.db import Session
from core.database.tables import Artifact, Job, JobMetric, LedgerEntry
from engine.process.sandbox.probe import Isolation
from tests.clock import quickest
from tests.processes import gone, outside
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
    assert job.summary == {"result": {"file_bytes": 7}}
    assert [(step["status"], step["metrics"]) for step in job.steps] == [("succeeded", {"test.top1": 0.5})] * 2
    assert [(warning["code"], warning["step_index"]) for warning in job.warnings] == [("no_dense_speedup", 0), ("no_dense_speedup", 1)]
    assert job.progress is not None
    assert (job.progress["fraction"], job.progress["steps_count"]) == (1.0, 2)
    assert bench.log(job.id) == "read the model\na line of a library\n"
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
        ("announce_upwards", "child_protocol", "internal", "no name of a file"),
        ("multiply", "too_many_processes", "resource", "more processes"),
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
    assert job.summary == {"result": {"file_bytes": 9}}
    with bench.service.database.reader() as session:
        assert [artifact.size_bytes for artifact in artifacts(session, job)] == [9]


@pytest.mark.parametrize("groups", [True, False], ids=["as the machine has it", "without a control group"])
@pytest.mark.parametrize("entry", ["take_all_memory", "take_memory_in_company"])
def test_memory_is_bounded_for_one_process_and_for_all(bench: Bench, monkeypatch: pytest.MonkeyPatch, entry: str, groups: bool) -> None:
    if not groups:
        monkeypatch.setattr("worker.cgroups.base", lambda: None)
    job = bench.run(entry, limits={"memory_bytes": 512 << 20})
    assert job.status == "failed"
    assert job.error is not None
    if entry == "take_all_memory":  # the child's own MemoryError: the engine would have made it out_of_memory
        assert "MemoryError" in bench.log(job.id)
    else:
        assert job.error["code"] == "out_of_memory"


@pytest.mark.parametrize("groups", [True, False], ids=["as the machine has it", "without a control group"])
def test_memory_that_no_process_has_mapped_is_bounded_where_no_filter_refuses_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, groups: bool
) -> None:
    if not groups:
        monkeypatch.setattr("worker.cgroups.base", lambda: None)
    job_id = bench.submit(limits={"memory_bytes": 256 << 20})
    with bench.runner("hide_memory", isolation=Isolation(0, (), {})):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"


def test_memory_that_no_process_has_mapped_cannot_be_had_in_the_sandbox(bench: Bench) -> None:
    assert bench.run("try_to_hide_memory").summary == {"refused": 3}


def test_a_job_without_a_limit_has_the_operators(bench: Bench) -> None:
    settings = bench.service.settings.model_copy(update={"job_memory_bytes": 300 << 20})
    job_id = bench.submit()
    with bench.runner("take_all_memory", service=replace(bench.service, settings=settings)):
        assert bench.wait(job_id, lambda job: job.status in jobs.TERMINAL).status == "failed"
    assert "MemoryError" in bench.log(job_id)


@pytest.mark.parametrize(("entry", "limits"), [("fill_the_folder", {"job_disk_bytes": 50 << 20}), ("make_many_files", {"job_files": 1000})])
def test_the_folder_of_a_job_is_bounded(bench: Bench, entry: str, limits: dict[str, int]) -> None:
    settings = bench.service.settings.model_copy(update=limits)
    job_id = bench.submit()
    with bench.runner(entry, service=replace(bench.service, settings=settings)):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("out_of_disk", False)


def test_a_job_that_runs_too_long_is_stopped(bench: Bench) -> None:
    started = time.monotonic()
    job = bench.run("wait_long", limits={"timeout_seconds": 1})
    assert time.monotonic() - started < 5
    assert job.error is not None
    assert (job.status, job.error["code"]) == ("failed", "timeout")
    assert gone(*pids(bench, job.id))


def test_a_killed_child_gets_another_attempt_while_there_are_some(bench: Bench) -> None:
    job = bench.run("be_killed", max_attempts=2)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", "child_killed", 2)
    assert bench.events(job.id).count("requeued") == 1


@pytest.mark.parametrize(("kills", "code", "attempts"), [([0, 0, 0, 0], "child_killed", 2), ([0, 1], "out_of_memory", 1)])
def test_a_killed_measuring_process_is_transient_unless_the_kernel_did_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kills: list[int], code: str, attempts: int
) -> None:
    counter = iter(kills)
    monkeypatch.setattr("worker.cgroups.base", lambda: None)
    monkeypatch.setattr("worker.endings.out_of_memory_kills", lambda: next(counter))
    job = bench.run("lose_the_measuring_process", max_attempts=2)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", code, attempts)


def test_a_bus_error_on_a_full_disk_is_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.endings.is_full", lambda _: True)
    for entry in ("crash_on_the_bus", "lose_the_measuring_process_on_the_bus"):
        job = bench.run(entry)
        assert job.error is not None
        assert (job.error["code"], job.error["retryable"]) == ("out_of_disk", True)


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
    assert (job.status, job.attempt, job.summary) == ("succeeded", 1, {"resumed": True})
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
    with bench.runner("succeed") as runner:
        bench.wait(job_id, lambda job: job.status != "queued")
        runner.drain()
        assert bench.wait(job_id, lambda job: job.status != "running").status == "succeeded"


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
