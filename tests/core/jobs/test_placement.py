"""Where a job waits: `device: auto` follows the GPU workers that are there."""

from sqlalchemy import update

from core import jobs
from core.database.clock import db_now
from core.database.tables import Lease
from core.jobs import planning, worker_registry
from core.jobs.placement import follow_workers
from core.jobs.worker_registry import Capacity
from core.operations.reconciler import Reconciler
from tests.core.conftest import World

GIB = 2**30


def come(world: World, worker: str = "host:1", devices: int = 1, memory_bytes: int = 24 * GIB) -> None:
    """A GPU worker says that it is there."""
    with world.service.database.unit_of_work() as session:
        worker_registry.note(session, "gpu", worker, Capacity(devices, memory_bytes))


def vanish(world: World) -> None:
    """No GPU worker has been heard of for a while."""
    with world.service.database.unit_of_work() as session:
        session.execute(update(Lease).where(Lease.name.startswith("worker:gpu:")).values(expires_at=db_now(-1)))


def follow(world: World) -> int:
    with world.service.database.unit_of_work() as session:
        return follow_workers(session, world.service.settings)


def test_auto_goes_to_a_gpu_that_fits_and_else_to_the_cpu(world: World) -> None:
    assert world.submit().queue == "cpu"
    come(world)
    assert world.submit().queue == "gpu"
    assert world.submit(limits={"gpu_memory_bytes": 40 * GIB}).queue == "cpu"
    assert world.submit(devices=2).queue == "cpu"
    assert world.submit(device="cpu").queue == "cpu"
    come(world, "host:2", devices=2, memory_bytes=80 * GIB)
    assert world.submit(limits={"gpu_memory_bytes": 40 * GIB}, devices=2).queue == "gpu"
    assert world.submit(devices=3).queue == "cpu"


def test_a_waiting_auto_job_moves_when_the_last_gpu_goes_and_back_when_one_comes(world: World) -> None:
    come(world)
    auto, fixed = world.submit(), world.submit(device="gpu")
    assert follow(world) == 0
    vanish(world)
    assert follow(world) == 1
    moved = world.job(auto.id)
    assert (moved.queue, world.job(fixed.id).queue) == ("cpu", "gpu")
    assert moved.version > auto.version
    come(world)
    assert follow(world) == 1
    assert world.job(auto.id).queue == "gpu"
    vanish(world)
    follow(world)
    claim = world.claim("cpu")
    assert claim is not None
    assert claim.job_id == auto.id
    come(world)
    assert follow(world) == 0  # it runs: it stays


def test_a_job_that_no_gpu_there_is_large_enough_for_does_not_wait_for_one(world: World) -> None:
    come(world, memory_bytes=80 * GIB)
    large, small = world.submit(limits={"gpu_memory_bytes": 40 * GIB}), world.submit()
    vanish(world)
    come(world, "host:2", memory_bytes=24 * GIB)
    assert follow(world) == 1
    assert (world.job(large.id).queue, world.job(small.id).queue) == ("cpu", "gpu")
    assert world.claim("cpu").job_id == large.id


def test_a_job_of_a_lost_gpu_worker_goes_on_elsewhere(world: World) -> None:
    come(world)
    job = world.submit()
    claim = world.claim("gpu", lease_seconds=-1, device_memory_bytes=24 * GIB)
    assert claim is not None
    vanish(world)
    service = world.service
    done = Reconciler(service.settings, service.database, service.blobs, service.doorbell).run_once()
    assert done is not None
    assert (done.lost, done.moved) == (1, 1)
    again = world.claim("cpu")
    assert again is not None
    assert (again.job_id, again.attempt) == (job.id, 2)


def test_a_job_for_several_devices_is_left_to_workers_that_have_them(world: World) -> None:
    several, one = world.submit(device="gpu", devices=4), world.submit(device="gpu")
    assert world.claim("gpu", devices=2).job_id == one.id
    assert world.claim("gpu", devices=2) is None
    assert world.claim("gpu", devices=4).job_id == several.id


def test_waiting_for_a_gpu_that_is_not_there_is_said(world: World) -> None:
    def warned(**spec: object) -> list[str]:
        with world.service.database.reader() as session:
            verdict = planning.validate(session, world.service.settings, world.project_id, jobs.Submission.read(world.spec(**spec)))
        told = [warning["code"] for warning in verdict["warnings"]]
        assert [warning["code"] for warning in world.submit(**spec).warnings] == [code for code in told if code == "no_gpu_worker"]
        return [code for code in told if code == "no_gpu_worker"]

    assert warned(device="gpu") == ["no_gpu_worker"]
    assert warned() == []
    come(world)
    assert warned(device="gpu") == []
    assert warned(device="gpu", devices=2) == ["no_gpu_worker"]
    assert jobs.SPEC_VERSION == 2
