"""Claims: each job once, in the right order, a fair share for each project."""

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import update

from core import jobs
from core.database.clock import db_now
from core.database.db import Database
from core.database.tables import Job, Project
from core.errors import JobAlreadyTerminal, LeaseLost
from core.service import Service
from core.settings import Settings
from tests.core.conftest import World


def _finish(world: World, claim: jobs.Claim) -> None:
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={})


def _drain(settings: Settings, name: str, found: "multiprocessing.Queue[tuple[str, int]]") -> None:
    def drain() -> None:
        while True:
            with database.unit_of_work() as session:
                claim = jobs.claim(session, "cpu", worker=name, device="cpu", lease_seconds=60)
            if claim is None:
                return
            found.put((claim.job_id, claim.fence))

    database = Database(settings)
    threads = [threading.Thread(target=drain) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.close()
    found.put(("", 0))


def test_processes_and_threads_that_compete_take_each_job_once(world: World) -> None:
    with world.service.database.unit_of_work() as session:
        submitted = {jobs.create(session, world.service.settings, world.project_id, world.spec()).job.id for _ in range(200)}
    context = multiprocessing.get_context("spawn")
    found = context.Queue()
    workers = [context.Process(target=_drain, args=(world.service.settings, f"w{index}", found)) for index in range(2)]
    for worker in workers:
        worker.start()
    claims: list[tuple[str, int]] = []
    while claims.count(("", 0)) < len(workers):
        claims.append(found.get(timeout=60))
    for worker in workers:
        worker.join(10)
    taken = [claim for claim in claims if claim[0]]
    assert Counter(job for job, _ in taken) == Counter(submitted)
    assert {fence for _, fence in taken} == {1}


def test_a_claim_beside_another_one_does_not_come_home_empty(world: World) -> None:
    for _ in range(8):
        world.submit()
    with ThreadPoolExecutor(8) as pool:
        barrier = threading.Barrier(8)

        def take() -> jobs.Claim | None:
            barrier.wait()
            return world.claim()

        claims = [future.result() for future in [pool.submit(take) for _ in range(8)]]
    assert len({claim.job_id for claim in claims if claim}) == 8


def test_higher_priority_first_then_the_oldest(world: World) -> None:
    order = [world.submit(priority=priority).id for priority in (0, 5, -3, 5, 0)]
    taken = [world.claim() for _ in range(5)]
    assert [order.index(claim.job_id) for claim in taken if claim] == [1, 3, 0, 4, 2]


def test_projects_share_workers_however_many_jobs_they_queue(world: World, another_world) -> None:
    others = [another_world(f"p{index}") for index in range(2)]
    for _ in range(12):
        world.submit()
    for other in others:
        for _ in range(4):
            other.submit()
    claims = [world.claim() for _ in range(9)]
    running = Counter(claim.project_id for claim in claims if claim)
    assert set(running.values()) == {3}

    # Whoever has the fewest running comes next, also after some have ended.
    mine = [claim for claim in claims if claim and claim.project_id == others[1].project_id]
    for claim in mine[:2]:
        _finish(world, claim)
    following = [world.claim() for _ in range(1)]
    assert [claim.project_id for claim in following if claim] == [others[1].project_id]
    rest = [world.claim() for _ in range(10)]
    assert Counter(claim.project_id for claim in rest if claim) == {world.project_id: 9, others[0].project_id: 1}
    assert world.claim() is None


def test_a_project_at_its_limit_lets_others_pass(world: World, another_world) -> None:
    other = another_world("other")
    with world.service.database.unit_of_work() as session:
        session.execute(update(Project).where(Project.id == world.project_id).values(max_running_jobs=1))
    for _ in range(3):
        world.submit(priority=10)
    other.submit()
    first, second, third = world.claim(), world.claim(), world.claim()
    assert first is not None
    assert second is not None
    assert (first.project_id, second.project_id, third) == (world.project_id, other.project_id, None)
    _finish(world, first)
    again = world.claim()
    assert again is not None
    assert again.project_id == world.project_id


def test_a_project_that_has_its_part_of_a_queue_gets_no_more(world: World, another_world) -> None:
    other = another_world("other")
    for _ in range(3):
        world.submit(priority=10)
    other.submit()
    claims = [world.claim(most_per_project=1) for _ in range(3)]
    assert [claim and claim.project_id for claim in claims] == [world.project_id, other.project_id, None]
    assert world.claim(most_per_project=2) is not None


def test_queues_are_apart(world: World) -> None:
    job = world.submit(device="gpu")
    assert world.claim("cpu") is None
    claim = world.claim("gpu")
    assert claim is not None
    assert claim.job_id == job.id


def test_a_job_waits_for_a_device_that_is_large_enough(world: World) -> None:
    job = world.submit(device="gpu", limits={"gpu_memory_bytes": 40 * 2**30})
    small = world.submit(device="gpu")
    assert world.claim("gpu", device_memory_bytes=24 * 2**30).job_id == small.id
    assert world.claim("gpu", device_memory_bytes=24 * 2**30) is None
    assert world.claim("gpu", device_memory_bytes=80 * 2**30).job_id == job.id


def test_a_job_that_waits_for_its_time_holds_up_nobody(world: World) -> None:
    first = world.submit()
    second = world.submit()
    with world.service.database.unit_of_work() as session:
        session.execute(update(Job).where(Job.id == first.id).values(available_at=db_now(60)))
    claim = world.claim()
    assert claim is not None
    assert claim.job_id == second.id
    assert world.claim() is None


@pytest.mark.parametrize("round_", range(5))
def test_cancel_racing_with_finish_leaves_one_end(world: World, round_: int) -> None:
    claim = world.running()
    barrier = threading.Barrier(3)

    def attempt(action) -> bool:
        barrier.wait()
        try:
            with world.service.database.unit_of_work() as session:
                action(session)
        except (LeaseLost, JobAlreadyTerminal):
            return False
        return True

    def worker_cancels(session) -> None:
        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60)
        jobs.cancelled(session, claim.job_id, claim.fence)

    actions = (
        lambda session: jobs.cancel(session, world.project_id, claim.job_id),
        lambda session: jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={}),
        worker_cancels,
    )
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(attempt, actions))
    job = world.job(claim.job_id)
    history = world.events(claim.job_id)
    assert job.status in ("succeeded", "cancelled")
    assert [event for event in history if event in jobs.TERMINAL] == [job.status]
    assert history[-1] == job.status


def test_the_lease_is_measured_by_the_databases_clock(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tests.core.conftest import make_world

    world = make_world(service)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30 * 86_400)
    claim = world.running()
    job = world.job(claim.job_id)
    assert job.lease_expires_at is not None
    assert abs(job.lease_expires_at.timestamp() - real() - 30) < 5
