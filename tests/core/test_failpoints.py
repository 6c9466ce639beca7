"""An error at every edge of a job's life, at its first, second … hit, until the life runs through: no promise is broken on the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import update

from core import failpoints, jobs
from core.database.clock import db_now
from core.database.tables import Job
from core.failpoints import InjectedError
from core.jobs import NewArtifact, Report, idempotency
from core.operations.reconciler import Reconciler
from core.service import Service
from core.settings import Settings
from tests.core.conftest import make_world
from tests.faults.invariants import Seen, violations

EDGES = (
    "create.before_commit",
    "create.after_commit",
    "claim.before_commit",
    "heartbeat.before_commit",
    "blob.registered",
    "blob.published",
    "finish.before_update",
    "finish.before_commit",
    "reconcile.after_lost",
)


@contextmanager
def _failing(point: str, hit: int) -> Iterator[None]:
    """The failpoint acts on its n-th hit in this process."""
    points = failpoints.parse(f"{point}:error@{hit}")
    failpoints._points.update(points)
    try:
        yield
    finally:
        failpoints._points.clear()


def _persist(action: Callable[[], object]) -> object:
    """What a client or a worker does after an error: the same again."""
    for _ in range(3):
        try:
            return action()
        except InjectedError:
            continue
    raise AssertionError("it failed three times")


@pytest.mark.parametrize("point", EDGES)
def test_an_error_at_an_edge_breaks_no_promise(sqlite_url: str, tmp_path: Path, point: str) -> None:
    acted = 0
    with Service.open(Settings(database_url=sqlite_url, data_dir=tmp_path, min_free_bytes=0)) as service:
        world = make_world(service)
        repair = Reconciler(service.settings, service.database, service.blobs, service.doorbell)
        seen = Seen()
        for hit in range(1, 4):
            document = world.spec(name=f"{hit}")

            def submit(document: dict[str, object] = document, key: str = str(hit)) -> str:
                with service.database.unit_of_work() as session:
                    request = idempotency.request(key, document)
                    return jobs.create(session, service.settings, world.project_id, document, idempotent=request).job.id

            def work() -> None:
                while (claim := world.claim()) is not None:
                    with service.database.unit_of_work() as session:
                        jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=60, report=Report(log="at work\n"))
                    blob = service.blobs.put_bytes(claim.job_id.encode())
                    with service.database.unit_of_work() as session:
                        artifact = NewArtifact("other", "text", "a.txt", blob)
                        jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={}, artifacts=[artifact])

            def worker() -> None:
                try:
                    work()
                except InjectedError:
                    # The worker died: its lease runs out, and the reconciler takes the job back.
                    with service.database.unit_of_work() as session:
                        session.execute(update(Job).where(Job.status == "running").values(lease_expires_at=db_now(-1)))
                    repair.run_once()
                    raise

            with _failing(point, hit):
                job_id = _persist(submit)
                seen.accepted.add(str(job_id))
                seen.by_key[str(hit)].add(str(job_id))
                _persist(worker)
                _persist(repair.run_once)
                acted += failpoints._points[point].hits >= hit
            assert world.job(str(job_id)).status == "succeeded"
            assert violations(service, seen, load_artifacts=False) == []
    assert acted >= 1, f"nothing passes {point}"
