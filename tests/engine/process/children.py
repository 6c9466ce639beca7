"""What the tests have a job child do: small, real, and sometimes hostile."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.contract.events import Done, Phase
from engine.contract.files import FileRef
from engine.process.sandbox import seccomp

Emit = Callable[[BaseModel], None]


def done(directory: Path, result: Any) -> Done:
    """The last event, with its result in a file."""
    return Done(result=FileRef.write(directory, "result.json", json.dumps(result).encode()))


def train(directory: Path, emit: Emit) -> int:
    """Training steps in torch, an inference in ONNX Runtime, and an import of the engine in a fresh interpreter."""
    import numpy
    import onnxruntime
    import torch
    from onnx import TensorProto, helper

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    inputs, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 2
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", info[:1], info[1:])
    onnx_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString())
    (outputs,) = session.run(None, {"x": numpy.full((1, 4), -1, numpy.float32)})
    fresh = subprocess.run(
        [sys.executable, "-c", "import onnxruntime, engine.contract.spec; print('fine')"], capture_output=True, text=True, check=True
    )
    torch.save(network.state_dict(), directory / "weights.pt")
    (directory / "touched").touch()
    assert (directory / "touched").exists()
    with tempfile.NamedTemporaryFile() as scratch:
        assert Path(scratch.name).is_relative_to(directory)
    emit(done(directory, {"losses": losses, "relu": outputs.tolist(), "fresh": fresh.stdout.strip()}))
    return 0


def surroundings(directory: Path, emit: Emit) -> int:
    """Report everything that the child inherited."""
    descriptors = {}
    for fd in range(64):
        try:
            descriptors[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    parent = "unreadable"
    with contextlib.suppress(OSError):
        parent = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode()
    emit(
        done(
            directory,
            {
                "environment": dict(os.environ),
                "own_environ": Path("/proc/self/environ").read_bytes().decode(),
                "parent_environ": parent,
                "descriptors": descriptors,
                "stdin": sys.stdin.read(),
                "directory": str(Path.cwd()),
                "session": os.getsid(0) == os.getpgid(0) and os.getpid() - os.getsid(0) in (0, 1),  # 1: beside the first of a namespace
                "umask": os.umask(0),
                "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
                "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
                "status": Path("/proc/self/status").read_text(),
            },
        )
    )
    return 0


def take_memory(directory: Path, emit: Emit) -> int:
    """Allocate until it is refused."""
    kept = []
    try:
        for _ in range(100):
            kept.append(b"x" * (64 << 20))
    except MemoryError:
        taken = len(kept)
        kept.clear()
        emit(done(directory, {"taken_bytes": taken * (64 << 20)}))
        return 0
    return 1


def burn(directory: Path, emit: Emit) -> int:
    """Use the processor without end."""
    while True:
        pass


def write_much(directory: Path, emit: Emit) -> int:
    """Write a file past its limit."""
    try:
        (directory / "big").write_bytes(b"x" * (2 << 20))
    except OSError as error:
        emit(done(directory, {"error": error.strerror}))
        return 0
    return 1


def leave_one_behind(directory: Path, emit: Emit) -> int:
    """End while a process that it started goes on."""
    kept = subprocess.Popen(["sleep", "60"])
    emit(done(directory, {"pid": kept.pid}))
    return 0


def wait_with_company(directory: Path, emit: Emit) -> int:
    """Stay, with a process beside it."""
    kept = subprocess.Popen(["sleep", "60"])
    emit(done(directory, {"pids": [os.getpid(), kept.pid]}))
    time.sleep(60)
    return 0


def sign_in(directory: Path, emit: Emit) -> int:
    """Leave a mark for each time that it ran."""
    with (directory / "signatures").open("a") as file:
        file.write("x")
    emit(Done())
    return 0


def wait_for_file(directory: Path, emit: Emit) -> int:
    """End with status 7 as soon as there is a file `go`."""
    while not (directory / "go").exists():
        time.sleep(0.02)
    emit(done(directory, {"pid": os.getpid()}))
    return 7


def crash(directory: Path, emit: Emit) -> int:
    """Die of a segmentation fault."""
    emit(Phase(phase="crashing"))
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)
    return 0


def hold_signals(directory: Path, emit: Emit) -> int:
    """Signals under a filter for kernels whose Landlock cannot hold them; run without the other layers."""
    seccomp.restrict(hold_signals=True)
    answers = {}
    for name, target in {"own": os.getpid(), "own_group": -os.getpgid(0), "zero": 0, "parent": os.getppid(), "everyone": -1}.items():
        try:
            os.kill(target, 0)
            answers[name] = "open"
        except PermissionError:
            answers[name] = "denied"
    emit(done(directory, answers))
    return 0
