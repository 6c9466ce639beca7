"""Jobs that the tests have a child run in place of the engine: small, real, and sometimes hostile."""

import gzip
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.contract.errors import JobError
from engine.contract.events import (
    ArtifactWritten,
    Checkpointed,
    Done,
    Failed,
    Log,
    MetricPoint,
    Phase,
    Progress,
    StepFinished,
    StepStarted,
    Warned,
)
from engine.contract.figures import Summary
from engine.contract.files import FileRef
from engine.contract.inspection import LayerInfo, ModelInspection, SignatureInfo
from engine.contract.job import RESULT
from engine.process.process import EVENTS_FD
from tests.results import summary

Emit = Callable[[BaseModel], None]


def announce(directory: Path, emit: Emit, filename: str, content: bytes, **changes: Any) -> None:
    """Write a file below `out/` and say so, perhaps wrongly."""
    (directory / "out" / filename).write_bytes(content)
    said = {
        "filename": filename,
        "kind": "model",
        "format": "onnx",
        "size_bytes": len(content),
        "gzip_bytes": len(gzip.compress(content)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    emit(ArtifactWritten(**{**said, **changes}))


def done(directory: Path, found: Summary | None = None, **changes: Any) -> Done:
    """The last word, with figures in a file."""
    content = (found or summary()).model_dump_json().encode()
    return Done(**{"outcome": "no_constraints", "result": FileRef.write(directory, RESULT, content), **changes})


def succeed(directory: Path, emit: Emit) -> int:
    """Everything that a good job says; the artifact is its input, reversed."""
    job = json.loads((directory / "job.json").read_text())
    content = (directory / job["model"]["path"]).read_bytes()[::-1]
    emit(Phase(phase="loading"))
    emit(Log(message="read the model"))
    sys.stdout.write("a line of a library\n")
    for index, step in enumerate(job["spec"]["steps"]):
        emit(Phase(phase="pruning", step_index=index))
        emit(StepStarted(method=step["method"], step_index=index))
        emit(MetricPoint(name="train.loss", value=0.5, step=1, step_index=index))
        emit(MetricPoint(name="train.loss", value=float("nan"), step=2, step_index=index))
        emit(Warned(code="no_dense_speedup", message="zeros do not make it faster", step_index=index))
        emit(Progress(fraction=(index + 1) / len(job["spec"]["steps"]), message="almost", step_index=index))
        emit(StepFinished(method=step["method"], metrics={"test.top1": 0.5}, step_index=index))
    announce(directory, emit, "model.onnx", content)
    announce(directory, emit, "report.json", b"{}", kind="report", format="json")
    emit(done(directory, summary(len(content))))
    return 0


def succeed_slowly(directory: Path, emit: Emit) -> int:
    """A good job whose step takes a while."""

    def emit_slowly(event: BaseModel) -> None:
        emit(event)
        if isinstance(event, StepStarted):
            time.sleep(0.5)

    return succeed(directory, emit_slowly)


def wait_long(directory: Path, emit: Emit) -> int:
    """Stay, with a process beside it that ignores SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    kept = subprocess.Popen([sys.executable, "-c", code])
    emit(StepStarted(method="magnitude_pruning", step_index=0))
    emit(Log(message=f"pids {os.getpid()} {kept.pid} enclosed {os.getsid(0) == 1}"))
    time.sleep(60)
    return 0


def wait_long_the_first_time(directory: Path, emit: Emit) -> int:
    """A job of one step stays in its first attempt; any other succeeds."""
    steps = json.loads((directory / "job.json").read_text())["spec"]["steps"]
    return wait_long(directory, emit) if len(steps) == 1 and directory.name.endswith("-1") else succeed(directory, emit)


def fail_well(directory: Path, emit: Emit) -> int:
    """A failure that the user reads."""
    emit(StepStarted(method="magnitude_pruning", step_index=0))
    emit(Failed(error=JobError.of("pruning_impossible", "user", "a layer would be empty", hint="lower it", step_index=0)))
    return 1


def miss_constraints(directory: Path, emit: Emit) -> int:
    """`on_violation: fail`: the job fails and keeps what it made."""
    announce(directory, emit, "model.onnx", b"too large")
    error = JobError.of("constraints_not_met", "user", "too large")
    emit(done(directory, summary(9), outcome="constraints_not_met", error=error))
    return 0


def fail_once(directory: Path, emit: Emit) -> int:
    """A transient failure each time."""
    emit(Failed(error=JobError.of("device_busy", "transient", "try again")))
    return 1


def crash(directory: Path, emit: Emit) -> int:
    """A segmentation fault."""
    emit(Phase(phase="pruning"))
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def be_killed(directory: Path, emit: Emit) -> int:
    """Killed from outside, or so it looks."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def burn(directory: Path, emit: Emit) -> int:
    """Reach the limit on processor time."""
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass


def end_silently(directory: Path, emit: Emit) -> int:
    """Status 0 and no result."""
    return 0


def talk_nonsense(directory: Path, emit: Emit) -> int:
    """A line that is no event, and then a long wait."""
    os.write(EVENTS_FD, b'{"type": "nonsense"}\n')
    time.sleep(60)
    return 0


def talk_without_end(directory: Path, emit: Emit) -> int:
    """One line that never ends."""
    while True:
        os.write(EVENTS_FD, b"x" * 65536)


def stop_in_a_line(directory: Path, emit: Emit) -> int:
    """The last line has no end."""
    os.write(EVENTS_FD, b'{"type": "phase", "phase": "lo')
    return 0


def go_on_after_the_end(directory: Path, emit: Emit) -> int:
    """A word after the last."""
    emit(done(directory))
    emit(Phase(phase="more"))
    return 0


def name_an_impossible_step(directory: Path, emit: Emit) -> int:
    """A step that the spec does not have."""
    emit(StepStarted(method="magnitude_pruning", step_index=7))
    return 0


def log_without_end(directory: Path, emit: Emit) -> int:
    """64 MiB of log, then a good end."""
    line = b"y" * 1023 + b"\n"
    for _ in range(64 << 10):
        os.write(1, line)
    emit(done(directory))
    return 0


def announce_nothing(directory: Path, emit: Emit) -> int:
    """An artifact that is not there."""
    emit(ArtifactWritten(filename="model.onnx", kind="model", format="onnx", size_bytes=1, sha256="0" * 64))
    emit(done(directory))
    return 0


def announce_other_bytes(directory: Path, emit: Emit) -> int:
    """An artifact whose bytes changed after they were hashed."""
    announce(directory, emit, "model.onnx", b"right")
    (directory / "out" / "model.onnx").write_bytes(b"wrong")
    emit(done(directory))
    return 0


def announce_other_size(directory: Path, emit: Emit) -> int:
    """An artifact that grew."""
    announce(directory, emit, "model.onnx", b"right", size_bytes=4)
    emit(done(directory))
    return 0


def announce_a_link(directory: Path, emit: Emit) -> int:
    """A link to a file that only the service can read."""
    secret = Path("/etc/passwd")
    (directory / "out" / "model.onnx").symlink_to(secret)
    emit(ArtifactWritten(filename="model.onnx", kind="model", format="onnx", size_bytes=1, sha256="0" * 64))
    emit(done(directory))
    return 0


def announce_through_a_linked_folder(directory: Path, emit: Emit) -> int:
    """The folder itself is a link."""
    (directory / "out").rmdir()
    (directory / "out").symlink_to("/etc")
    emit(ArtifactWritten(filename="passwd", kind="model", format="onnx", size_bytes=1, sha256="0" * 64))
    emit(done(directory))
    return 0


def announce_upwards(directory: Path, emit: Emit) -> int:
    """A name that leads out of the folder."""
    emit(ArtifactWritten(filename="../job.json", kind="model", format="onnx", size_bytes=1, sha256="0" * 64))
    emit(done(directory))
    return 0


def checkpoint_and_wait(directory: Path, emit: Emit) -> int:
    """First attempt: a checkpoint after step 0, then a long step. Second attempt: goes on from it."""
    job = json.loads((directory / "job.json").read_text())
    if job["resume"] is not None:
        content = (directory / job["resume"]).read_bytes()
        emit(Log(message=f"resumed from {content.decode()}"))
        announce(directory, emit, "model.onnx", content)
        emit(StepStarted(method="magnitude_pruning", step_index=1))
        emit(StepFinished(method="magnitude_pruning", step_index=1))
        emit(done(directory))
        return 0
    emit(StepStarted(method="magnitude_pruning", step_index=0))
    emit(StepFinished(method="magnitude_pruning", metrics={"test.top1": 0.25}, step_index=0))
    (directory / "tmp" / "state").write_bytes(b"state after step 0")
    emit(Checkpointed(path="tmp/state", step_index=0))
    emit(StepStarted(method="magnitude_pruning", step_index=1))
    time.sleep(60)
    return 0


def checkpoint_elsewhere(directory: Path, emit: Emit) -> int:
    """A checkpoint outside of the directory must not be read; the job itself goes on."""
    emit(Checkpointed(path="/etc/passwd", step_index=0))
    emit(done(directory))
    return 0


def checkpoint_slowly(directory: Path, emit: Emit) -> int:
    """Checkpoints every 0.2 s, for a minute."""
    for index in range(300):
        (directory / "tmp" / f"state-{index}").write_text(str(index))
        emit(Checkpointed(path=f"tmp/state-{index}", step_index=0))
        time.sleep(0.2)
    return 0


def leave_an_unreadable_folder(directory: Path, emit: Emit) -> int:
    """Files and folders with modes that make them hard to remove."""
    nested = directory / "tmp" / "a" / "b"
    nested.mkdir(parents=True)
    (nested / "file").write_text("x")
    emit(done(directory))
    return 0


def lay_a_link_for_the_drain(directory: Path, emit: Emit) -> int:
    """Where the supervisor will make a file, a link to somewhere else."""
    (directory / "drain").symlink_to(directory.parent.parent / "touched")
    emit(Log(message="laid"))
    time.sleep(60)
    return 0


def run_the_engine(directory: Path, emit: Emit) -> int:
    """The real job, in as many processes as it asks for."""
    from engine.jobs.run import run_job

    return run_job(directory, emit)


def publish_two_settings(directory: Path, emit: Emit) -> int:
    """One file for each of two settings."""
    announce(directory, emit, "model.onnx", b"wide", settings=("wide",))
    announce(directory, emit, "model-narrow.onnx", b"narrow", settings=("narrow",))
    emit(done(directory, summary(names=("wide", "narrow"))))
    return 0


def announce_an_unknown_setting(directory: Path, emit: Emit) -> int:
    """A file of a setting that has no figures."""
    announce(directory, emit, "model.onnx", b"wide", settings=("wide",))
    emit(done(directory))
    return 0


def end_without_figures(directory: Path, emit: Emit) -> int:
    """A compression that came to nothing that can be shown."""
    emit(Done(outcome="no_constraints"))
    return 0


def end_with_other_figures(directory: Path, emit: Emit) -> int:
    """A result of another form than a summary."""
    emit(Done(outcome="no_constraints", result=FileRef.write(directory, RESULT, b'{"baseline": {}}')))
    return 0


def end_with_endless_figures(directory: Path, emit: Emit) -> int:
    """Figures that no client would read."""
    found = summary()
    metrics = {f"test.{number}": 1.0 for number in range(250_000)}
    large = found.model_copy(update={"result": found.result.model_copy(update={"metrics": metrics})})
    emit(done(directory, large))
    return 0


def change_the_result(directory: Path, emit: Emit) -> int:
    """A result that changed after it was hashed."""
    last = done(directory)
    (directory / RESULT).write_bytes(b"{}")
    emit(last)
    return 0


def name_a_result_elsewhere(directory: Path, emit: Emit) -> int:
    """A result outside of the directory."""
    emit(done(directory, result=FileRef(path="../../other", size_bytes=1, sha256="0" * 64)))
    return 0


def describe_six_thousand_layers(directory: Path, emit: Emit) -> int:
    """What an inspection finds in a very deep network."""
    layers = tuple(
        LayerInfo(
            name=f"stages.{n // 100}.blocks.{n % 100}.conv",
            type="Conv2d",
            input_shape=(None, 64, 8, 8),
            output_shape=(None, 64, 8, 8),
            params_count=36_928,
            macs_count=2_359_296,
            prunable=True,
            quantizable=True,
        )
        for n in range(6_000)
    )
    counts = {"params_count": 1, "nonzero_params_count": 1, "macs_count": 1}
    signature = SignatureInfo(inputs=(), outputs=())
    found = ModelInspection(signature=signature, **counts, trainable=True, untrainable_reason=None, layers=layers)
    emit(Done(result=FileRef.write(directory, RESULT, found.model_dump_json().encode())))
    return 0
