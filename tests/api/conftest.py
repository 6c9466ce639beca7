"""A real server on loopback over a real core; each test talks to it as a project of its own."""

import contextlib
import io
import itertools
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import structlog
from onnx import TensorProto, helper, numpy_helper

from api import server as serving
from api.app import create_app
from api.front.room import Bounds
from core import jobs
from core.access import keys, projects
from core.access.keys import USER_SCOPES
from core.service import Service
from core.settings import Settings
from tests.results import summary

serving.collect_rarely = lambda: None  # it would set aside the objects of all tests of this process
MAX_UPLOAD_BYTES = 8 * 2**20
_numbers = itertools.count()


@dataclass
class Server:
    """A running server and its insides."""

    url: str
    service: Service

    def key(self, project: str, scopes: Any = USER_SCOPES, **options: Any) -> str:
        """A key's token; makes the project where it is new."""
        with self.service.database.unit_of_work() as session:
            return keys.create(session, projects.create(session, project).id, "test", scopes=scopes, **options)[1]

    def client(self, project: str, **options: Any) -> "Client":
        """A client with a key of the project."""
        return Client(self, self.key(project, **options))

    def claim(self, job_id: str, queue: str = "cpu") -> jobs.Claim:
        """Take a job as a worker does; jobs of other tests that stand before it are taken too."""
        while True:
            with self.service.database.unit_of_work() as session:
                claim = jobs.claim(
                    session, queue, worker="w", device="cpu", lease_seconds=600, isolation={"tier": 1, "layers": ["landlock"]}
                )
            assert claim is not None
            if claim.job_id == job_id:
                return claim

    def finish(self, job_id: str, *, result: dict[str, Any] | None = None, **options: Any) -> None:
        """Claim a job and let it succeed."""
        claim = self.claim(job_id)
        with self.service.database.unit_of_work() as session:
            options.setdefault("outcome", "no_constraints")
            jobs.finish(session, claim.job_id, claim.fence, result=result or summary().model_dump(mode="json"), **options)

    def report(self, claim: jobs.Claim, report: jobs.Report) -> None:
        """What a worker tells with its heartbeat."""
        with self.service.database.unit_of_work() as session:
            jobs.heartbeat(session, claim.job_id, claim.fence, lease_seconds=600, report=report)

    def inspected(self, row_id: str, result: dict[str, Any] | None, error: dict[str, Any] | None = None) -> None:
        """End the inspection of a model or dataset."""
        while True:
            with self.service.database.unit_of_work() as session:
                claim = jobs.claim(session, "inspect", worker="w", device="cpu", lease_seconds=600)
                assert claim is not None
                read = claim.model or claim.dataset
                if read is None or read.id != row_id:
                    continue
                if error is not None:
                    jobs.fail(session, claim.job_id, claim.fence, jobs.JobError.of(**error))
                else:
                    jobs.finish(session, claim.job_id, claim.fence, outcome=None, result=result or {})
                return

    def files(self) -> set[str]:
        """Every file in the blob store, staged ones included."""
        root = self.service.settings.data_dir / "blobs"
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


class Client(httpx.Client):
    """An HTTP client of one project, with shorthands for what tests need first."""

    def __init__(self, server: Server, token: str | None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        super().__init__(base_url=server.url, headers=headers, timeout=30)
        self.server = server
        self.token = token

    def model(self, content: bytes, **query: str) -> dict[str, Any]:
        """Upload a model."""
        return self._created("/v1/models", {"name": "m", "format": "onnx", **query}, content)

    def dataset(self, content: bytes, **query: str) -> dict[str, Any]:
        """Upload a dataset."""
        return self._created("/v1/datasets", {"name": "d", "format": "npz", **query}, content)

    def job(self, spec: dict[str, Any], **headers: str) -> dict[str, Any]:
        """Submit a spec."""
        answer = self.post("/v1/jobs", json=spec, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def _created(self, path: str, query: dict[str, str], content: bytes) -> dict[str, Any]:
        answer = self.post(path, params=query, content=content)
        assert answer.status_code == 201, answer.text
        return answer.json()  # type: ignore[no-any-return]


@contextlib.contextmanager
def running(settings: Settings, bounds: Bounds | None = None) -> Iterator[Server]:
    """A server of its own; its database must have been migrated."""
    app = create_app(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = serving.Server(serving.config(app, settings, bounds, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.service)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Rich tracebacks take seconds to draw."""
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


@pytest.fixture(scope="session")
def server(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of this test process; it wants keys."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copy(_sqlite_template, folder / "modelpress.db")
    with running(
        Settings(data_dir=folder, auth="required", min_free_bytes=0, max_upload_bytes=MAX_UPLOAD_BYTES, lease_seconds=600)
    ) as running_server:
        yield running_server


@pytest.fixture
def start(_sqlite_template: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts further servers with other settings, each over an empty database."""
    with contextlib.ExitStack() as stack:

        def begin(bounds: Bounds | None = None, **options: Any) -> Server:
            folder = tmp_path / f"server{next(_numbers)}"
            folder.mkdir()
            shutil.copy(_sqlite_template, folder / "modelpress.db")
            settings = Settings(**{"data_dir": folder, "min_free_bytes": 0, "max_upload_bytes": MAX_UPLOAD_BYTES, **options})
            return stack.enter_context(running(settings, bounds))

        yield begin


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of a fresh project."""
    with server.client(f"project-{next(_numbers)}") as opened:
        yield opened


@pytest.fixture
def stranger(server: Server) -> Iterator[Client]:
    """A client of another fresh project."""
    with server.client(f"project-{next(_numbers)}") as opened:
        yield opened


@pytest.fixture(scope="session")
def onnx_bytes() -> bytes:
    """A linear classifier of four inputs."""
    weights = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def npz(**arrays: Any) -> bytes:
    """Arrays as an npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.fixture(scope="session")
def npz_bytes() -> bytes:
    """Eight training and four test examples of four values in three classes."""
    generator = np.random.default_rng(0)
    return npz(
        x_train=generator.normal(size=(8, 4)).astype(np.float32),
        y_train=np.arange(8) % 3,
        x_test=generator.normal(size=(4, 4)).astype(np.float32),
        y_test=np.arange(4) % 3,
    )


MODEL_INSPECTION: dict[str, Any] = {
    "signature": {
        "inputs": [{"name": "input", "shape": [None, 4], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [None, 3], "dtype": "float32"}],
    },
    "params_count": 12,
    "nonzero_params_count": 11,
    "macs_count": 12,
    "activation_bytes": 40,
    "opset": 17,
    "operators": {"MatMul": 1},
    "trainable": True,
    "untrainable_reason": None,
    "layers": [
        {
            "name": "MatMul_0",
            "type": "Linear",
            "input_shape": [None, 4],
            "output_shape": [None, 3],
            "params_count": 12,
            "macs_count": 12,
            "prunable": False,
            "quantizable": True,
        }
    ],
}
DATASET_INSPECTION: dict[str, Any] = {
    "splits": {"train": {"examples_count": 8}, "test": {"examples_count": 4}},
    "columns": [{"name": "x", "shape": [4], "dtype": "float32"}, {"name": "y", "shape": [], "dtype": "int64"}],
    "classes": [0, 1, 2],
    "labels": True,
    "preview": {
        "train": [{"index": index, "label": index % 3, "values": [0.0, 1.0, 2.0, 3.0]} for index in range(8)],
        "test": [{"index": index, "label": index % 3, "values": [0.0, 1.0, 2.0, 3.0]} for index in range(4)],
    },
}


@pytest.fixture
def spec(client: Client, server: Server, onnx_bytes: bytes, npz_bytes: bytes) -> dict[str, Any]:
    """A valid spec of the client's project, over a model and a dataset that were inspected."""
    model, dataset = client.model(onnx_bytes), client.dataset(npz_bytes)
    server.inspected(model["id"], MODEL_INSPECTION)
    server.inspected(dataset["id"], DATASET_INSPECTION)
    return {"model": model["id"], "dataset": dataset["id"], "steps": [{"method": "magnitude_pruning", "sparsity": 0.5}]}


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem in an answer, after checking what every problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.content)
    assert {"type", "title", "status", "detail", "code", "request_id", "errors"} <= body.keys()
    assert body["code"] == code, body
    assert body["status"] == status
    assert body["type"] == f"/problems/{code.replace('_', '-')}"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    return body
