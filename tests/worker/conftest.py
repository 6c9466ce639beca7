"""A service on a real SQLite file, and a runner whose children run a test's own entry."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core import jobs
from core.access import projects
from core.database import migrate
from core.database.tables import Job
from core.library import models
from core.service import Service
from core.settings import Settings
from engine.process.launcher import Launcher
from engine.process.sandbox.probe import Isolation, choose
from worker import devices
from worker.cgroups import Groups
from worker.runner import Runner
from worker.workplace import Workplace

STEP = {"method": "magnitude_pruning", "sparsity": 0.5}


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(warm=False)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def isolation(launcher: Launcher) -> Isolation:
    return choose(launcher)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path,
        lease_seconds=2,
        heartbeat_seconds=0.2,
        reconcile_seconds=0.1,
        retry_delay_seconds=0,
        drain_seconds=1,
        min_free_bytes=0,
    )


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    migrate.upgrade(settings)
    with Service.open(settings) as service:
        yield service


class Bench:
    """Submits jobs, runs them, and looks at what became of them."""

    def __init__(self, service: Service, launcher: Launcher, isolation: Isolation, folder: Path) -> None:
        self.service = service
        self.work_dir = folder / "work"
        self._launcher = launcher
        self._isolation = isolation

    def submit(self, content: bytes = b"network", steps: int = 1, **spec: Any) -> str:
        """A queued job for a model of these bytes."""
        blob = self.service.blobs.put_bytes(content)
        with self.service.database.unit_of_work() as session:
            project = projects.default(session)
            model = models.create(session, self.service.settings, project.id, name="m", format="onnx", metadata={}, blob=blob)
            document = {"model": model.id, "steps": [STEP] * steps, **spec}
            document.setdefault("dataset", None)
            return jobs.create(session, self.service.settings, project.id, document).job.id

    @contextmanager
    def runner(self, entry: str, **changes: Any) -> Iterator[Runner]:
        """A running claim loop."""
        workplace, groups = Workplace(self.work_dir), Groups()
        isolation: Future[Isolation] = Future()
        isolation.set_result(changes.get("isolation", self._isolation))
        runner = Runner(
            changes.get("service", self.service),
            queue=changes.get("queue", "cpu"),
            device=devices.cpu(),
            launcher=self._launcher,
            isolation=isolation,
            workplace=workplace,
            groups=groups,
            entry=entry if ":" in entry else f"tests.worker.children:{entry}",
        )
        runner.start()
        try:
            yield runner
        finally:
            runner.drain()
            runner.join(20)
            groups.close()
            workplace.close()
            assert not runner.is_alive()

    def run(self, entry: str, steps: int = 1, **spec: Any) -> Job:
        """Submit a job and run it to its end."""
        job_id = self.submit(steps=steps, **spec)
        with self.runner(entry):
            return self.wait(job_id, lambda job: job.status in jobs.TERMINAL)

    def job(self, job_id: str) -> Job:
        """The row as it stands."""
        with self.service.database.reader() as session:
            return session.get_one(Job, job_id)

    def wait(self, job_id: str, condition: Callable[[Job], bool], seconds: float = 20) -> Job:
        """The row as soon as `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition(job := self.job(job_id)):
            assert time.monotonic() < deadline, f"still {job.status}, phase {job.phase}, error {job.error}, log {self.log(job_id)!r}"
            time.sleep(0.02)
        return job

    def log(self, job_id: str) -> str:
        """The job's log."""
        with self.service.database.reader() as session:
            return b"".join(jobs.log(session, job_id)).decode()

    def events(self, job_id: str) -> list[str]:
        """Types of the job's events."""
        with self.service.database.reader() as session:
            return [event.type for event in jobs.events(session, job_id, limit=1000)]


@pytest.fixture
def bench(service: Service, launcher: Launcher, isolation: Isolation, tmp_path: Path) -> Bench:
    return Bench(service, launcher, isolation, tmp_path)
