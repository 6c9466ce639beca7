"""What a job comes to may be larger than any line of its events: it travels in a file. Real inspections in real children."""

import io
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sqlalchemy import select

from core.access import projects
from core.database.tables import Dataset, Job, Model
from core.jobs import TERMINAL
from core.library import datasets, models
from engine.contract.events import MAX_LINE_BYTES
from tests.worker.conftest import Bench

LAYERS = 6_000


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


def many_layers() -> bytes:
    """A network of 6,000 layers."""
    names = ["x", *(f"h{number}" for number in range(1, LAYERS)), "y"]
    nodes = [
        helper.make_node("Gemm", [names[n], "w", "b"], [names[n + 1]], f"stage.{n // 100}.block.{n % 100}.linear") for n in range(LAYERS)
    ]
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in "xy")
    weights = [helper.make_tensor("w", TensorProto.FLOAT, [1, 1], [1.0]), helper.make_tensor("b", TensorProto.FLOAT, [1], [0.0])]
    graph = helper.make_graph(nodes, "net", [inputs], [outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = onnx.ModelProto.SerializeToString(model)
    return content


@pytest.mark.parametrize("role", ["dataset", "model"])
def test_an_inspection_larger_than_a_line_arrives(bench: Bench, role: str) -> None:
    module, table = (datasets, Dataset) if role == "dataset" else (models, Model)
    blob = bench.service.blobs.put_bytes(three_inputs() if role == "dataset" else many_layers())
    with bench.service.database.unit_of_work() as session:
        project_id = projects.default(session).id
        settings, format = bench.service.settings, "npz" if role == "dataset" else "onnx"
        row_id = module.create(session, settings, project_id, name="wide", format=format, metadata={}, blob=blob).id  # type: ignore[attr-defined]
    with bench.runner("compress", queue=bench.service.settings.inspect_queue):
        with bench.service.database.reader() as session:
            job_id = session.scalars(select(Job.id).where(Job.shown.is_(False))).one()
        job = bench.wait(job_id, lambda job: job.status in TERMINAL, seconds=120)
    assert (job.status, job.error) == ("succeeded", None)
    with bench.service.database.reader() as session:
        row = session.get_one(table, row_id)
        found = row.inspection
    assert row.status == "ready"
    assert len(json.dumps(found)) > MAX_LINE_BYTES
    if role == "dataset":
        assert set(found["preview"]["test"][0]["inputs"]) == {"x.left", "x.middle", "x.right"}
    else:
        assert len(found["layers"]) == LAYERS
