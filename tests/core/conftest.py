"""A project with a model and a dataset that are ready, and shorthands for the life of a job."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from core import jobs
from core.access import projects
from core.database.tables import Dataset, Job, Model
from core.library import datasets, models
from core.service import Service

LEASE_SECONDS = 30.0


@dataclass
class World:
    """One project of a service, as a client and as a worker see it."""

    service: Service
    project_id: str
    model: Model
    dataset: Dataset

    def spec(self, **more: Any) -> dict[str, Any]:
        """A small valid spec."""
        return {"model": self.model.id, "dataset": self.dataset.id, "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}], **more}

    def submit(self, **more: Any) -> Job:
        """A queued job."""
        with self.service.database.unit_of_work() as session:
            return jobs.create(session, self.service.settings, self.project_id, self.spec(**more)).job

    def claim(self, queue: str = "cpu", **more: Any) -> jobs.Claim | None:
        """The next job, as a worker takes it."""
        options = {"worker": "w1", "device": "cpu", "lease_seconds": LEASE_SECONDS, **more}
        with self.service.database.unit_of_work() as session:
            return jobs.claim(session, queue, **options)

    def running(self, **more: Any) -> jobs.Claim:
        """A job that was submitted and claimed."""
        self.submit(**more)
        claim = self.claim()
        assert claim is not None
        return claim

    def job(self, job_id: str) -> Job:
        """The job as it stands."""
        with self.service.database.reader() as session:
            return jobs.get(session, self.project_id, job_id)

    def events(self, job_id: str) -> list[str]:
        """The types of the job's events."""
        with self.service.database.reader() as session:
            history = jobs.events(session, job_id)
        assert [event.seq for event in history] == list(range(1, len(history) + 1))
        return [event.type for event in history]


def make_world(service: Service, project: str = "default") -> World:
    """A project with a ready model and dataset."""
    blob = service.blobs.put_bytes(b"not parsed by anybody in these tests")
    with service.database.unit_of_work() as session:
        project_id = projects.create(session, project).id
        model = models.create(session, service.settings, project_id, name="m", format="onnx", metadata={}, blob=blob)
        dataset = datasets.create(session, service.settings, project_id, name="d", format="npz", metadata={}, blob=blob)
    for _ in range(2):
        with service.database.unit_of_work() as session:
            claim = jobs.claim(session, "inspect", worker="w0", device="cpu", lease_seconds=LEASE_SECONDS)
            assert claim is not None
            jobs.finish(session, claim.job_id, claim.fence, outcome=None, result={"trainable": True, "labels": True})
    return World(service, project_id, model, dataset)


@pytest.fixture
def world(service: Service) -> World:
    """A project with a ready model and dataset, on each database."""
    return make_world(service)


@pytest.fixture
def another_world(service: Service) -> Callable[[str], World]:
    """Further projects beside `world`."""
    return lambda name: make_world(service, name)
