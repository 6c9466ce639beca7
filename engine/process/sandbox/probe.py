"""Is the confinement real? A child tries to reach what it must not, and says what happened (`python -m engine.process.sandbox.probe` prints it).

The answer decides the tier: versions and configuration are never trusted, since containers, kernels and policies differ.
"""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from engine.contract.events import Done, parse_event
from engine.contract.files import FileRef
from engine.process import linux
from engine.process.launcher import Launcher, LaunchError
from engine.process.request import Request
from engine.process.sandbox import landlock
from engine.process.sandbox.isolation import LAYERS

Answer = Literal["denied", "open"]
PTRACE_ATTACH, CLONE_NEWUSER = 16, 0x10000000
ANSWERS = "answers.json"
PROBE_SECONDS = 60.0
"""Longest time that a probe may take; a child that was stopped would hold its worker up for ever."""
_CALLS = {"x86_64": {"ptrace": 101, "unshare": 272, "mount": 165}, "aarch64": {"ptrace": 117, "unshare": 97, "mount": 40}}


@dataclass(frozen=True)
class Isolation:
    """What confines the children of this worker."""

    tier: int
    """0: own session, limits, scrubbed environment, private directory. 1: Landlock and seccomp as well, and every line denied."""
    layers: tuple[str, ...]
    probe: dict[str, Answer]
    """What a child tried → `denied` or `open`."""
    in_company: dict[str, Answer] | None = None
    """The same of a child that speaks to others by TCP in a network of its own; None where the kernel gives none."""
    sockets: Literal["none", "private", "shared"] = "none"
    """What a job's processes may speak over, see `Request`."""

    def of_several(self) -> "Isolation":
        """What confines a job in several processes: tier 0, where they would share the machine's network."""
        if self.in_company is None:
            return replace(self, tier=0, probe={**self.probe, "tcp_connect": "open"}, sockets="shared")
        denied = all(answer == "denied" for answer in self.in_company.values())
        return replace(self, tier=self.tier if denied else 0, probe=self.in_company, sockets="private")

    def to_json(self) -> dict[str, object]:
        """As it stands in the job."""
        layers = [f"landlock:{landlock.abi()}" if layer == "landlock" else layer for layer in self.layers]
        if self.sockets == "private":
            layers.append("network_namespace")
        return {"tier": self.tier, "layers": [*layers, "rlimits", "session", "environment", "no_new_privs"], "probe": self.probe}


def choose(launcher: Launcher, place: Path | None = None) -> Isolation:
    """The strongest confinement that works here, found by trying; `place` is where job directories will be.

    Raises LaunchError if no child can be started at all.
    """
    for layers in (LAYERS, ("landlock",), ("seccomp",), ()):
        answers = probe(launcher, layers, place)
        if answers is not None:
            tier = 1 if layers == LAYERS and all(answer == "denied" for answer in answers.values()) else 0
            return Isolation(tier, layers, answers, probe(launcher, layers, place, sockets="private"))
    raise LaunchError("a job child cannot even report under the weakest confinement; the worker's output says why")


def probe(
    launcher: Launcher, layers: tuple[str, ...], place: Path | None = None, *, sockets: Literal["none", "private"] = "none"
) -> dict[str, Answer] | None:
    """Run every attempt in a child under `layers`; None if the layers cannot be put on, or sockets do not work there."""
    with ExitStack() as stack:
        outside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="probe-", dir=place)))
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mp-")))  # a socket's path holds 107 bytes
        (outside / "other").mkdir(mode=0o700)
        (outside / "other" / "weights").write_text("another job's")
        directory = outside / "job"
        directory.mkdir(mode=0o700)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(short / "socket"))
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0{outside.name}")
        abstract.listen()
        victim = subprocess.Popen(["sleep", "60"], env={"SECRET": "of the supervisor"})
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        targets = {
            "outside": str(outside),
            "port": tcp.getsockname()[1],
            "unix": str(short / "socket"),
            "abstract": f"\0{outside.name}",
            "victim": victim.pid,
            "own_network": sockets == "private",
        }
        (directory / "targets.json").write_text(json.dumps(targets))
        child = launcher.start(Request(directory, entry="engine.process.sandbox.probe:attempt_all", layers=layers, sockets=sockets))
        bound = threading.Timer(PROBE_SECONDS, child.signal, [signal.SIGKILL])
        bound.start()
        try:
            with open(child.events, "rb", closefd=False) as events:
                reported = [_parse(line) for line in events]
            answers = _answers(reported[-1] if reported else None, directory)
        finally:
            bound.cancel()
            child.signal(signal.SIGKILL)
            child.collect(10)
            child.close()
            shutil.rmtree(directory, ignore_errors=True)
    return answers


def _answers(last: BaseModel | None, directory: Path) -> dict[str, Answer] | None:
    if not isinstance(last, Done) or last.result is None:
        return None
    answers: dict[str, Answer] = json.loads(last.result.read(directory))
    return answers


def _parse(line: bytes) -> BaseModel | None:
    try:
        return parse_event(line)
    except ValidationError:
        return None


def attempt_all(directory: Path, emit: Callable[[BaseModel], None]) -> int:
    """The child's side: attempt everything that `targets.json` names."""
    targets = json.loads((directory / "targets.json").read_text())
    outside, victim = Path(targets["outside"]), int(targets["victim"])
    calls = _CALLS.get(linux.MACHINE, {})
    attempts: dict[str, Callable[[], object]] = {
        "read_other_job": (outside / "other" / "weights").read_bytes,
        "list_other_job": lambda: os.listdir(outside / "other"),
        "read_accounts": lambda: Path("/etc/passwd").read_bytes(),
        "write_outside": lambda: (outside / "written").write_text("x"),
        "chmod_outside": lambda: _chmod(outside / "other"),
        "truncate_outside": lambda: os.truncate(outside / "other" / "weights", 0),
        "tcp_connect": lambda: socket.create_connection(("127.0.0.1", int(targets["port"])), timeout=2).close(),
        "unix_socket": lambda: _connect(targets["unix"]),
        "abstract_socket": lambda: _connect(targets["abstract"]),
        "other_environment": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "parent_environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "signal_other": lambda: os.kill(victim, 0),
        "limit_other": lambda: resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1)),
        "leave_group": _leave_group,
        "trace_other": lambda: linux.syscall(calls["ptrace"], PTRACE_ATTACH, victim, 0, 0),
        "user_namespace": lambda: linux.syscall(calls["unshare"], CLONE_NEWUSER),
        "new_root": lambda: os.chroot(directory),
    }
    if targets["own_network"] and _try(_speak_to_self) == "denied":
        return 1
    with (directory / ANSWERS).open("wb") as file:  # opened before an attempt changes the root
        content = json.dumps({name: _try(attempt) for name, attempt in attempts.items()}).encode()
        file.write(content)
    emit(Done(result=FileRef.of(ANSWERS, content)))
    return 0


def _try(attempt: Callable[[], object]) -> Answer:
    try:
        attempt()
    except (OSError, KeyError):
        return "denied"
    return "open"


def _connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        client.connect(address)


def _speak_to_self() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=2).close()


def _chmod(path: Path) -> None:
    path.chmod(0o755)
    if path.stat().st_mode & 0o777 != 0o755:
        raise PermissionError("nothing changed")


def _leave_group() -> None:
    """A leader cannot make a session, but what it starts could; that it is told so proves nothing."""
    reader, writer = os.pipe()
    group = os.getpgid(0)
    child = os.fork()
    if child == 0:
        _try(os.setsid)
        os.write(writer, b"denied" if os.getpgid(0) == group else b"open")
        os._exit(0)
    os.waitpid(child, 0)
    if os.read(reader, 16) == b"denied":
        raise PermissionError("it could not leave")


def main() -> None:
    """Print what confines a child on this machine."""
    launcher = Launcher(warm=False)
    try:
        print(json.dumps(choose(launcher).to_json(), indent=2))  # noqa: T201
    finally:
        launcher.close()


if __name__ == "__main__":
    main()
