"""Jobs that take too much, and how their ends are told apart."""

from dataclasses import replace

import pytest

from core import jobs
from engine.process.sandbox.probe import Isolation
from tests.worker.conftest import Bench

GREEDY = "tests.worker.greedy"


@pytest.mark.parametrize("groups", [True, False], ids=["as the machine has it", "without a control group"])
@pytest.mark.parametrize("entry", ["take_all_memory", "take_memory_in_company"])
def test_memory_is_bounded_for_one_process_and_for_all(bench: Bench, monkeypatch: pytest.MonkeyPatch, entry: str, groups: bool) -> None:
    if not groups:
        monkeypatch.setattr("worker.cgroups.base", lambda: None)
    job = bench.run(f"{GREEDY}:{entry}", limits={"memory_bytes": 512 << 20})
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
    with bench.runner(f"{GREEDY}:hide_memory", isolation=Isolation(0, (), {})):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.error is not None
    assert job.error["code"] == "out_of_memory"


def test_memory_that_no_process_has_mapped_cannot_be_had_in_the_sandbox(bench: Bench) -> None:
    assert "refused 3 of 3" in bench.log(bench.run(f"{GREEDY}:try_to_hide_memory").id)


def test_a_job_without_a_limit_has_the_operators(bench: Bench) -> None:
    settings = bench.service.settings.model_copy(update={"job_memory_bytes": 300 << 20})
    job_id = bench.submit()
    with bench.runner(f"{GREEDY}:take_all_memory", service=replace(bench.service, settings=settings)):
        assert bench.wait(job_id, lambda job: job.status in jobs.TERMINAL).status == "failed"
    assert "MemoryError" in bench.log(job_id)


@pytest.mark.parametrize(("entry", "limits"), [("fill_the_folder", {"job_disk_bytes": 50 << 20}), ("make_many_files", {"job_files": 1000})])
def test_the_folder_of_a_job_is_bounded(bench: Bench, entry: str, limits: dict[str, int]) -> None:
    settings = bench.service.settings.model_copy(update=limits)
    job_id = bench.submit()
    with bench.runner(f"{GREEDY}:{entry}", service=replace(bench.service, settings=settings)):
        job = bench.wait(job_id, lambda job: job.status in jobs.TERMINAL)
    assert job.error is not None
    assert (job.error["code"], job.error["retryable"]) == ("out_of_disk", False)


@pytest.mark.parametrize(("kills", "code", "attempts"), [([0, 0, 0, 0], "child_killed", 2), ([0, 1], "out_of_memory", 1)])
def test_a_killed_measuring_process_is_transient_unless_the_kernel_did_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kills: list[int], code: str, attempts: int
) -> None:
    counter = iter(kills)
    monkeypatch.setattr("worker.cgroups.base", lambda: None)
    monkeypatch.setattr("worker.endings.out_of_memory_kills", lambda: next(counter))
    job = bench.run(f"{GREEDY}:lose_the_measuring_process", max_attempts=2)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", code, attempts)


def test_a_bus_error_on_a_full_disk_is_a_full_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.endings.is_full", lambda _: True)
    for entry in ("crash_on_the_bus", "lose_the_measuring_process_on_the_bus"):
        job = bench.run(f"{GREEDY}:{entry}")
        assert job.error is not None
        assert (job.error["code"], job.error["retryable"]) == ("out_of_disk", True)
