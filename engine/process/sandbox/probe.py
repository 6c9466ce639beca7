"""Is the confinement real? A child tries to reach what it must not, and reports what happened (`python -m engine.process.sandbox.probe` prints it).

The answer decides the tier: versions and configuration are never trusted, since containers, kernels and policies differ.
"""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from engine.contract.events import Done, parse_event
from engine.process import linux
from engine.process.launcher import Launcher, LaunchError
from engine.process.request import NAMESPACES, Request
from engine.process.sandbox import landlock
from engine.process.sandbox.attempts import BEYOND_TIER_1, Answer, Targets
from engine.process.sandbox.isolation import LAYERS

PROBE_SECONDS = 60.0
"""Longest time that a probe may take; a child that was stopped would hold its worker up for ever."""


@dataclass(frozen=True)
class Isolation:
    """What confines the children of this worker."""

    tier: int
    """0: own session, limits, scrubbed environment, private directory. 1: Landlock and seccomp as well, and every line denied but those
    that need more. 2: in namespaces of its own as well, and every line denied."""
    layers: tuple[str, ...]
    probe: dict[str, Answer]
    """What a child tried → `denied` or `open`."""
    in_company: dict[str, Answer] | None = None
    """The same of a child that connects to others by TCP in a network of its own; None where the kernel gives none."""
    sockets: Literal["none", "private", "shared"] = "none"
    """How a job's processes may connect to each other, see `Request`."""

    def of_several(self) -> "Isolation":
        """What confines a job in several processes: tier 0, where they would share the machine's network."""
        if self.in_company is None:
            layers = tuple(layer for layer in self.layers if layer != NAMESPACES)
            return replace(self, tier=0, layers=layers, probe={**self.probe, "tcp_connect": "open"}, sockets="shared")
        return replace(self, tier=min(self.tier, _tier(self.layers, self.in_company)), probe=self.in_company, sockets="private")

    def to_json(self) -> dict[str, object]:
        """As it stands in the job."""
        layers = [f"landlock:{landlock.abi()}" if layer == "landlock" else layer for layer in self.layers if layer != NAMESPACES]
        if NAMESPACES in self.layers:
            layers += ["process_namespace", "mount_namespace", "ipc_namespace"]
        if NAMESPACES in self.layers or self.sockets == "private":
            layers.append("network_namespace")
        return {"tier": self.tier, "layers": [*layers, "rlimits", "session", "environment", "no_new_privs"], "probe": self.probe}


def choose(launcher: Launcher, place: Path | None = None, *, gpu: bool = False) -> Isolation:
    """The strongest confinement that works here, found by trying; `place` is where job directories will be.

    Children with a GPU get no namespaces: drivers look for more of the machine than is left in there. Raises LaunchError if no child
    can be started at all.
    """
    for layers in ((NAMESPACES, *LAYERS), LAYERS, ("landlock",), ("seccomp",), ()):
        if gpu and NAMESPACES in layers:
            continue
        answers = probe(launcher, layers, place)
        if answers is not None and (NAMESPACES not in layers or _tier(layers, answers) == 2):
            return Isolation(_tier(layers, answers), layers, answers, probe(launcher, layers, place, sockets="private"))
    raise LaunchError("a job child cannot even report under the weakest confinement; the worker's output says why")


def _tier(layers: tuple[str, ...], answers: dict[str, Answer]) -> int:
    opened = {name for name, answer in answers.items() if answer == "open"}
    if not set(LAYERS) <= set(layers) or opened - BEYOND_TIER_1:
        return 0
    return 2 if NAMESPACES in layers and not opened else 1


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
        targets = Targets(
            outside=outside,
            port=tcp.getsockname()[1],
            unix=str(short / "socket"),
            abstract=f"\0{outside.name}",
            victim=victim.pid,
            shared_memory=stack.enter_context(linux.shared_memory()),
            own_network=sockets == "private",
        )
        (directory / "targets.json").write_text(targets.model_dump_json())
        child = launcher.start(Request(directory, entry="engine.process.sandbox.attempts:attempt_all", layers=layers, sockets=sockets))
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


def main() -> None:
    """Print what confines a child on this machine."""
    launcher = Launcher(warm=False)
    try:
        print(json.dumps(choose(launcher).to_json(), indent=2))  # noqa: T201 - for whoever runs this module
    finally:
        launcher.close()


if __name__ == "__main__":
    main()
