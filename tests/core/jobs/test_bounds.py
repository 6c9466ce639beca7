"""The record of one job is bounded in every direction, and says what it leaves out."""

from typing import Any

import pytest

from core import jobs
from core.database.paging import PAGE_CHARACTERS
from core.database.serialization import to_json
from core.jobs import NewEvent, Point, Report, bounds
from tests.core.conftest import World


def _warnings(count: int, characters: int = 10) -> list[dict[str, Any]]:
    return [{"code": "w", "message": f"{number}".ljust(characters, "x"), "step_index": 0, "details": {}} for number in range(count)]


def test_few_warnings_stay_as_they_are() -> None:
    assert bounds.bounded_warnings(_warnings(bounds.MAX_WARNINGS)) == _warnings(bounds.MAX_WARNINGS)


@pytest.mark.parametrize(("count", "characters"), [(40_000, 100), (300, 60_000), (3, 10_000_000)])
def test_many_or_long_warnings_are_counted(count: int, characters: int) -> None:
    kept = bounds.bounded_warnings(_warnings(count, characters))
    assert len(kept) <= bounds.MAX_WARNINGS
    assert len(to_json(kept)) <= bounds.MAX_WARNINGS_CHARACTERS + 1000
    assert kept[0]["message"].startswith("0")
    told = [item for item in kept if item["code"] == "w"]
    if len(told) < count:
        assert kept[-1]["message"] == f"{count - len(told)} further warnings are not kept."


def test_as_many_warnings_are_kept_as_may_be() -> None:
    kept = bounds.bounded_warnings(_warnings(bounds.MAX_WARNINGS + 1))
    assert kept[:-1] == _warnings(bounds.MAX_WARNINGS - 1)
    assert kept[-1]["message"] == "2 further warnings are not kept."


def test_an_object_that_is_too_long_keeps_what_is_short() -> None:
    event = {"code": "c", "message": "m" * 100_000, "reasons": ["r"] * 50_000, "step_index": 3}
    short = bounds.shortened(event, 16_000)
    assert short == {"code": "c", "message": "m" * 1000, "step_index": 3, "omitted_characters": len(to_json(event))}
    assert bounds.shortened({"a": 1}, 100) == {"a": 1}
    assert len(to_json(bounds.shortened({"n" * 9000 + str(number): number for number in range(1000)}, 16_000))) < 20_000


def test_events_and_points_end_at_their_bounds_and_the_job_does_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.jobs.work.MAX_EVENTS", 10)
    monkeypatch.setattr("core.jobs.work.MAX_POINTS", 10)
    claim = world.running()
    for _ in range(5):
        report = Report(
            events=[NewEvent("phase", {"phase": "p" * 100_000})] * 4, metrics=[Point("loss", 1.0)] * 3, warnings=_warnings(1000)
        )
        with world.service.database.unit_of_work() as session:
            jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=30, report=report)
    with world.service.database.unit_of_work() as session:
        error = jobs.JobError.of("diverged", "user", "m" * 50_000, details={"reasons": ["r"] * 100_000, "layer": "conv1"})
        jobs.fail(session, claim.job_id, claim.fence, error)
    with world.service.database.reader() as session:
        events = jobs.events(session, claim.job_id)
        assert len(jobs.metrics(session, claim.job_id)) == 10
    assert [event.seq for event in events] == list(range(1, 12))
    assert events[-1].type == "failed"
    assert all(len(to_json(event.data)) < 100_000 for event in events)
    job = world.job(claim.job_id)
    assert job.error is not None
    assert job.error["details"]["layer"] == "conv1"
    assert job.warnings[-1]["code"] == "more_warnings"


def test_a_page_of_long_jobs_is_read_in_parts(world: World) -> None:
    labels = {f"k{number}": "v" for number in range(3)}
    long = {"steps": [{"method": "magnitude_pruning", "sparsity": 0.5, "ignore": [f"layer_{number:06d}" for number in range(9000)]}]}
    made = [world.submit(labels=labels, **long).id for _ in range(40)]
    with world.service.database.reader() as session:
        short = jobs.search(session, world.project_id, limit=100)
        assert [job.id for job in short.data] == made[::-1]
        assert "spec" not in jobs.listed(short.data[0])
        seen, after = [], None
        while True:
            page = jobs.search(session, world.project_id, limit=100, after=after, expand=["spec", "normalized_spec"])
            shown = [jobs.listed(job, ["spec", "normalized_spec"]) for job in page.data]
            assert sum(len(to_json(job)) for job in shown) < PAGE_CHARACTERS * 1.1
            seen += [job["id"] for job in shown]
            after = page.next_cursor
            assert page.has_more == (after is not None)
            if after is None:
                break
    assert seen == made[::-1]
