"""What a job comes to may be larger than any line of its events: it travels in a file. Real children in a real worker."""

import io
import json
from typing import Any, cast

import numpy as np
from sqlalchemy import select

from core.access import projects
from core.database.tables import Dataset, Job, Model
from core.jobs import TERMINAL
from core.library import datasets, models
from engine.contract.events import MAX_LINE_BYTES
from tests.worker.conftest import Bench


def three_inputs() -> bytes:
    """A dataset of three inputs of 1,024 numbers in each of three splits."""
    rng = np.random.default_rng(0)
    arrays = {
        f"x_{split}.{name}": rng.standard_normal((8, 1024)).astype(np.float32)
        for split in ("train", "validation", "test")
        for name in ("left", "middle", "right")
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def inspected(bench: Bench, row: Dataset | Model, entry: str) -> dict[str, Any]:
    """Run the inspection of an upload; what it found."""
    with bench.runner(entry, queue=bench.service.settings.inspect_queue):
        with bench.service.database.reader() as session:
            job_id = session.scalars(select(Job.id).where(Job.shown.is_(False))).one()
        job = bench.wait(job_id, lambda job: job.status in TERMINAL, seconds=60)
    assert (job.status, job.error) == ("succeeded", None)
    with bench.service.database.reader() as session:
        row = cast("Dataset | Model", session.get_one(type(row), row.id))
        assert row.status == "ready"
        assert row.inspection is not None
        assert len(json.dumps(row.inspection)) > MAX_LINE_BYTES
        return row.inspection


def test_a_preview_of_three_float_inputs_arrives(bench: Bench) -> None:
    blob = bench.service.blobs.put_bytes(three_inputs())
    with bench.service.database.unit_of_work() as session:
        project_id = projects.default(session).id
        row = datasets.create(session, bench.service.settings, project_id, name="wide", format="npz", metadata={}, blob=blob)
    found = inspected(bench, row, "run_the_engine")
    assert set(found["preview"]["test"][0]["inputs"]) == {"x.left", "x.middle", "x.right"}


def test_a_table_of_six_thousand_layers_arrives(bench: Bench) -> None:
    blob = bench.service.blobs.put_bytes(b"a deep network")
    with bench.service.database.unit_of_work() as session:
        project_id = projects.default(session).id
        row = models.create(session, bench.service.settings, project_id, name="deep", format="onnx", metadata={}, blob=blob)
    assert len(inspected(bench, row, "describe_six_thousand_layers")["layers"]) == 6_000
