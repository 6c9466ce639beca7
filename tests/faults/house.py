"""The whole real service in a folder of its own, and hands to hurt it with."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from core.service import Service
from core.settings import Settings
from engine.process.linux import PR_SET_PDEATHSIG, prctl, stat_of
from tests.faults.invariants import Seen, violations
from tests.plain import TERMINAL, ApiError, Client
from tests.processes import descendants
from tests.servers import free_port

FEATURES, HIDDEN, CLASSES = 16, 32, 4
LEASE_SECONDS = 3.0
SHORT = {
    "MODELPRESS_LEASE_SECONDS": str(LEASE_SECONDS),
    "MODELPRESS_HEARTBEAT_SECONDS": "0.3",
    "MODELPRESS_RECONCILE_SECONDS": "0.5",
    "MODELPRESS_RETRY_DELAY_SECONDS": "0.1",
    "MODELPRESS_CHECKPOINT_SECONDS": "0.5",
    "MODELPRESS_DRAIN_SECONDS": "2",
    "MODELPRESS_MIN_FREE_BYTES": "0",
    "MODELPRESS_STAGING_EXPIRY_SECONDS": "1",
    "MODELPRESS_WEBHOOK_LEASE_SECONDS": "2",
    "MODELPRESS_EGRESS_NETWORKS": '["127.0.0.0/8"]',
    "MODELPRESS_EGRESS_PLAIN_HTTP": "true",
}
"""Settings under which what takes seconds in production takes a fraction here."""


def network(seed: int = 0) -> bytes:
    """A small multilayer perceptron as ONNX."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (HIDDEN, FEATURES), "b1": (HIDDEN,), "w2": (CLASSES, HIDDEN), "b2": (CLASSES,)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
    ]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES]),
    ]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def examples(seed: int = 0) -> bytes:
    """512 examples of four classes as npz, half of them for training."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, 512)
    centres = rng.normal(0, 2, (CLASSES, FEATURES))
    inputs = (centres[labels] + rng.normal(0, 1, (512, FEATURES))).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, x_train=inputs[:256], y_train=labels[:256], x_test=inputs[256:], y_test=labels[256:])
    return buffer.getvalue()


class House:
    """`modelpress serve` with short leases, and a model and a dataset in it."""

    def __init__(self, folder: Path, *, workers: int = 1, **environment: str) -> None:
        self.folder = folder
        self.log = folder / "serve.log"
        self.port = free_port()
        self.client = Client(f"http://127.0.0.1:{self.port}")
        self._workers = workers
        self._environment = {**SHORT, **environment}
        self.settings = Settings(
            data_dir=folder / "data",
            database_url=environment.get("MODELPRESS_DATABASE_URL", ""),
            staging_expiry_seconds=1,
            min_free_bytes=0,
        )
        self.seen = Seen()
        self.process = self._start()
        self.model, self.dataset = "", ""

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "cli.main", "serve", "--port", str(self.port), "--data-dir", str(self.settings.data_dir)]
        with self.log.open("ab") as log:
            # A session of its own: what is sent to the group of the tests (a time limit, Ctrl-C) would stop it in the middle of a row. And
            # it ends with the tests, whatever ends them.
            return subprocess.Popen(
                [*command, "--workers", str(self._workers)],
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - nothing else is done in between
            )

    def wait_until_ready(self) -> None:
        """Wait for the API and every worker, then upload."""
        self.until(lambda: self.log.read_bytes().count(b"isolation chosen") >= self._workers, "no worker is ready")
        self.until(self.answers, "the API does not answer")
        if not self.model:
            model, dataset = self.folder / "network.onnx", self.folder / "examples.npz"
            model.write_bytes(network())
            dataset.write_bytes(examples())
            self.model = self._upload("models", model, "onnx")
            self.dataset = self._upload("datasets", dataset, "npz")

    def _upload(self, kind: str, file: Path, format: str) -> str:
        while True:
            try:
                return str(self.client.upload(kind, file, format)["id"])
            except OSError:
                time.sleep(0.1)

    def restart(self) -> None:
        """Start again over the same data."""
        self.log.unlink()
        self.process = self._start()
        self.wait_until_ready()

    def answers(self) -> bool:
        """Whether the API does."""
        try:
            self.client.json("GET", "/livez")
        except (OSError, ApiError):
            return False
        return True

    def wait_until_whole(self) -> None:
        """Wait until the API and every worker are there, and each worker knows what confines its jobs."""
        self.until(
            lambda: self.answers() and len(self.pids("worker")) == self._workers and not self._probes(), "the house is not whole again"
        )

    def _probes(self) -> list[Path]:
        """Folders in which a worker that has just been started tries its confinement."""
        return [folder for data_dir in self.data_dirs() for folder in (data_dir / "work").glob("worker-*/probe-*")]

    def until(self, condition: Callable[[], bool], message: str, seconds: float = 60) -> None:
        """Wait until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{message}\n{self.log.read_text(errors='replace')[-6000:]}"
            time.sleep(0.02)

    def submit(self, iterations: int = 400, *, key: str | None = None, patient: bool = False, **spec: Any) -> str:
        """Post a job that trains for `iterations` steps, each about a millisecond; returns its id.

        With a `key` it is idempotent; then `patient` repeats it until the service answers.
        """
        finetune = {"iterations": iterations, "batch_size": 16, "learning_rate": 0.001}
        document = {
            "model": self.model,
            "dataset": self.dataset,
            "steps": [{"method": "magnitude_pruning", "sparsity": 0.5, "finetune": finetune}],
            "evaluation": {"latency": {"repeats": 5}},
            **spec,
        }
        while True:
            try:
                job_id = str(self.client.json("POST", "/v1/jobs", document, {"Idempotency-Key": key} if key else {})["id"])
            except ApiError as error:
                if not patient or error.code != "idempotency_in_progress":
                    raise
            except OSError:
                if not patient:
                    raise
                self._must_live()
            else:
                break
            time.sleep(0.1)
        self.seen.accepted.add(job_id)
        if key:
            self.seen.by_key[key].add(job_id)
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """The job's body, asked for again while the API is away."""
        while True:
            try:
                job: dict[str, Any] = self.client.json("GET", f"/v1/jobs/{job_id}")
            except OSError:
                self._must_live()
                time.sleep(0.05)
            else:
                return job

    def _must_live(self) -> None:
        """Whoever asks again and again would otherwise do so for ever."""
        assert self.process.poll() is None, f"the service ended by itself\n{self.log.read_text(errors='replace')[-6000:]}"

    def wait(self, job_id: str, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> dict[str, Any]:
        """The job's body as soon as `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition(job := self.job(job_id)):
            said = json.dumps({key: job[key] for key in ("status", "phase", "attempt", "error")})
            assert time.monotonic() < deadline, f"{said}\n{self.log.read_text(errors='replace')[-6000:]}"
            assert job["status"] not in TERMINAL, said
            time.sleep(0.02)
        return job

    def end(self, job_id: str, seconds: float = 60) -> dict[str, Any]:
        """The job's body at its end."""
        job = self.wait(job_id, lambda job: job["status"] in TERMINAL, seconds)
        self.seen.ends[job_id] = job["status"]
        return job

    def has_ended(self, job_id: str) -> bool:
        """Whether it has, by now."""
        return self.job(job_id)["status"] in TERMINAL

    def in_training(self, job_id: str) -> dict[str, Any]:
        """The job's body once it trains."""
        return self.wait(job_id, lambda job: job["phase"] == "training")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """The job's history."""
        found: list[dict[str, Any]] = []
        while True:
            after = f"&after={found[-1]['id']}" if found else ""
            page = self.client.json("GET", f"/v1/jobs/{job_id}/events?limit=100{after}")
            found += page["data"]
            if not page["has_more"]:
                return found

    def event_types(self, job_id: str) -> list[str]:
        """What happened to the job, in words."""
        return [event["type"] for event in self.events(job_id)]

    def weights(self, job_id: str) -> dict[str, np.ndarray]:
        """The tensors that the job published as safetensors."""
        page = self.client.json("GET", f"/v1/jobs/{job_id}/artifacts")["data"]
        artifact = next(item for item in page if item["format"] == "safetensors")
        target = self.folder / f"{job_id}.safetensors"
        self.client.download(f"/v1/artifacts/{artifact['id']}/content", target)
        return dict(load_file(target))

    def pids(self, role: str) -> list[int]:
        """Process ids of a role: api, worker, parent (of job children), child, spare (a child that waits for a job), measuring, broker."""
        found = []
        for pid in self.everyone():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = int(stat_of(pid)[1])
                above = Path(f"/proc/{parent}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found_role = _role(words, above)
            if found_role == "child" and is_spare(pid):
                found_role = "spare"
            if role == found_role:
                found.append(pid)
        return found

    def everyone(self) -> list[int]:
        """Process ids of the whole service."""
        return descendants(self.process.pid)

    def hurt(self, role: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Send a signal to every process of a role."""
        hit = self.pids(role)
        for pid in hit:
            os.kill(pid, number)
        return hit

    def broken_promises(self, *, orphans: set[int] | None = None, load_artifacts: bool = False, grace_seconds: float = 5) -> list[str]:
        """Violated invariants, of a house in which nothing runs; what is being cleaned up has `grace_seconds`."""
        deadline = time.monotonic() + grace_seconds
        with Service.open(self.settings) as service:
            while True:
                service.blobs.sweep_staging()  # the reconciler does so every minute
                folders = tuple(folder for data_dir in self.data_dirs() for folder in (data_dir / "work").glob("worker-*[!k]"))
                found = violations(service, self.seen, orphans=orphans, load_artifacts=load_artifacts, folders=folders)
                if not found or time.monotonic() > deadline:
                    return found
                time.sleep(0.2)

    def data_dirs(self) -> list[Path]:
        """Where processes of the service keep files."""
        return [self.settings.data_dir]

    def close(self) -> None:
        """Stop in good order."""
        self.process.terminate()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


def is_spare(child: int) -> bool:
    """Whether a child of the parent of job children waits for a job, by the name that it or the process that it keeps gave itself."""
    try:
        below = Path(f"/proc/{child}/task/{child}/children").read_text().split()
        return any(Path(f"/proc/{pid}/comm").read_text() == "spare\n" for pid in (child, *below))
    except OSError:
        return False


def _role(words: str, above: str) -> str:
    if "engine.process.warm" in words:
        return "child" if "engine.process.warm" in above else "parent"
    return next(
        (
            role
            for sign, role in (("api.server", "api"), ("cli.main worker", "worker"), ("valkey", "broker"), ("examiner.server", "measuring"))
            if sign in words
        ),
        "other",
    )
