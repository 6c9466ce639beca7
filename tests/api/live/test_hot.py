"""Jobs that are answered from memory: only as long as the database said so less than a second ago."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.live import hot
from api.live.hot import HotJobs, Rendered
from core.database.tables import Job
from core.jobs import Mark


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"now": 1000.0}
    monkeypatch.setattr(hot.time, "monotonic", lambda: now["now"])
    return now


def _entry(clock: dict[str, float], job_id: str = "job_1", version: int = 1) -> Rendered:
    return Rendered("prj_1", job_id, version, False, f'"{version}"', b"{}", "1", clock["now"], clock["now"], [])


def test_memory_is_trusted_for_less_than_a_second(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    clock["now"] += 0.79
    assert jobs.get("prj_1", "job_1") is not None
    clock["now"] += 0.02
    assert jobs.get("prj_1", "job_1") is None


def test_it_belongs_to_one_project(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    assert jobs.get("prj_2", "job_1") is None


def test_the_database_confirms_what_is_unchanged_as_of_the_moment_it_was_asked(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    asked_at = clock["now"] + 0.5
    clock["now"] += 0.7
    jobs.seen({"job_1": Mark(1, 1, "running")}, asked_at)
    clock["now"] = asked_at + 0.79
    assert jobs.get("prj_1", "job_1") is not None
    clock["now"] = asked_at + 0.81
    assert jobs.get("prj_1", "job_1") is None


def test_what_changed_is_dropped_at_once(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    jobs.put(_entry(clock, "job_2"))
    clock["now"] += 0.1
    jobs.seen({"job_1": Mark(2, 5, "succeeded"), "job_2": Mark(1, 1, "running")}, clock["now"])
    assert jobs.get("prj_1", "job_1") is None
    assert jobs.get("prj_1", "job_2") is not None


def test_a_job_that_is_gone_is_dropped_unless_it_came_after_the_question(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    asked_at = clock["now"] + 0.1
    clock["now"] += 0.2
    jobs.put(_entry(clock, "job_2"))
    jobs.seen({}, asked_at)
    assert jobs.get("prj_1", "job_1") is None
    assert jobs.get("prj_1", "job_2") is not None


def test_jobs_that_nobody_asks_for_are_no_longer_polled(clock: dict[str, float]) -> None:
    jobs = HotJobs()
    jobs.put(_entry(clock))
    jobs.put(_entry(clock, "job_2"))
    clock["now"] += 9
    jobs.seen({"job_1": Mark(1, 1, "running"), "job_2": Mark(1, 1, "running")}, clock["now"])
    assert jobs.get("prj_1", "job_1") is not None
    clock["now"] += 2
    assert list(jobs.job_ids()) == ["job_1"]


def test_memory_is_bounded(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "_MAX_ENTRIES", 3)
    jobs = HotJobs()
    for number in range(5):
        jobs.put(_entry(clock, f"job_{number}"))
    assert list(jobs.job_ids()) == ["job_2", "job_3", "job_4"]


@pytest.mark.parametrize(("age", "seconds"), [(0, "1"), (60, "3"), (400, "20"), (10_000, "30")])
def test_young_jobs_are_worth_asking_for_more_often(age: float, seconds: str) -> None:
    columns: dict[str, Any] = {
        "id": "job_1",
        "project_id": "prj_1",
        "status": "running",
        "version": 7,
        "rank": 0,
        "steps": [],
        "created_at": datetime.now(UTC) - timedelta(seconds=age),
    }
    entry = hot.render(Job(**columns))
    assert (entry.retry_after, entry.etag) == (seconds, '"7"')
    assert hot.render(Job(**{**columns, "status": "failed"})).retry_after is None


def test_memory_is_bounded_in_bytes(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot, "_MAX_BYTES", 10)
    monkeypatch.setattr(hot, "_MAX_ENTRY_BYTES", 5)
    jobs = HotJobs()
    for number in range(8):
        jobs.put(_entry(clock, f"job_{number}"))
    assert [number for number in range(8) if jobs.get("prj_1", f"job_{number}")] == [3, 4, 5, 6, 7]
    long = _entry(clock, "job_7")
    long.body = b"{     }"
    jobs.put(long)
    assert jobs.get("prj_1", "job_7") is None
    jobs.put(_entry(clock, "job_8"))
    assert [number for number in range(9) if jobs.get("prj_1", f"job_{number}")] == [3, 4, 5, 6, 8]


def _reading(clock: dict[str, float], calls: list[int], go: threading.Event) -> Callable[[str, str], Rendered]:
    def read(project_id: str, job_id: str) -> Rendered:
        calls.append(1)
        go.wait(5)
        return _entry(clock, job_id)

    return read


def test_those_who_ask_at_the_same_time_share_one_look_at_the_database(clock: dict[str, float]) -> None:
    jobs, calls, go = HotJobs(), list[int](), threading.Event()

    async def run() -> list[Rendered]:
        asking = [asyncio.create_task(jobs.fetch("prj_1", "job_1", _reading(clock, calls, go))) for _ in range(20)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*asking)

    assert len({id(entry) for entry in asyncio.run(run())}) == 1
    assert len(calls) == 1
    assert jobs.get("prj_1", "job_1") is not None


def test_what_was_read_before_a_change_is_neither_kept_nor_shared_after_it(clock: dict[str, float]) -> None:
    jobs, calls, go = HotJobs(), list[int](), threading.Event()

    async def run() -> None:
        before = asyncio.create_task(jobs.fetch("prj_1", "job_1", _reading(clock, calls, go)))
        await asyncio.sleep(0)
        jobs.changed("job_1")
        after = asyncio.create_task(jobs.fetch("prj_1", "job_1", lambda project_id, job_id: _entry(clock, job_id, version=2)))
        assert (await after).version == 2
        go.set()
        assert (await before).version == 1

    asyncio.run(run())
    found = jobs.get("prj_1", "job_1")
    assert found is not None
    assert found.version == 2


def test_a_job_that_cannot_be_read_is_asked_for_again(clock: dict[str, float]) -> None:
    jobs = HotJobs()

    def fail(project_id: str, job_id: str) -> Rendered:
        raise LookupError(job_id)

    async def run() -> None:
        with pytest.raises(LookupError):
            await jobs.fetch("prj_1", "job_1", fail)
        assert (await jobs.fetch("prj_1", "job_1", lambda project_id, job_id: _entry(clock, job_id))).version == 1

    asyncio.run(run())
