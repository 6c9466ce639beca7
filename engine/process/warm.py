"""The parent of job children: `python -m engine.process.warm SOCKET_FD SUPERVISOR_PID [--cold]`.

It imports torch and the engine once (about five seconds) and then forks a child for each request, which takes milliseconds.
It keeps one child ready for the next request (`engine.process.spare`), so that a start takes a few.
It never runs a torch operator: after one forward and backward pass in the parent, a forked child that does the same hangs on
the thread pools that did not survive the fork. It has exactly one thread when it forks, and ends at once if an import started
another.

Messages on the socket (SOCK_SEQPACKET, JSON): the supervisor sends a numbered `Request` with two descriptors, events and log; the
parent answers `{"number": n, "started": pid}` or `{"number": n, "refused": why}`, and later `{"number": n, "exited": pid,
"returncode": exit status or minus a signal, …}`.
`--cold` imports nothing beforehand: a fallback for when the preload itself fails.
"""

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import traceback
from dataclasses import replace
from types import FrameType

import engine
from engine.contract.json import JsonObject
from engine.process.linux import die_with_parent, thread_count
from engine.process.process import MAX_REQUEST_BYTES
from engine.process.request import Kind, Request
from engine.process.sandbox import namespaces
from engine.process.spare import Spare, kill_group

MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES
_SPARE_SECONDS = 0.3
"""How long nothing is asked for before a child is made ready: a job that has just been started needs the processor more."""
_MOST_WASTED = 5
"""Children that are made ready in a row and end before a request comes, until that is given up."""
_LIBRARIES = (
    "numpy",
    "safetensors.torch",
    "onnx.reference",
    "onnxruntime.quantization",
    "onnxscript.optimizer",
    # What torch imports on the way: at an optimizer's first step (a second), at an export (five).
    "torch._dynamo",
    "torch.export._trace",
    "torch.onnx._internal.exporter._compat",
    "torch.onnx._internal.exporter._torchlib.ops",
    "onnxscript.function_libs.torch_lib.ops",
)


def preload() -> None:
    """Import what a job needs. What cannot be imported here fails the job that uses it, and not all jobs."""
    modules = pkgutil.walk_packages(engine.__path__, "engine.")
    for name in (*_LIBRARIES, *(module.name for module in modules if not module.name.endswith("__main__"))):
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"not preloaded: {name}: {error!r}", file=sys.stderr)  # noqa: T201 - for the worker's log


class Parent:
    """Forks children, and reports and cleans up after each of them. Keeps one ready of the kind that was asked for last."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, bool]] = {}
        """Process id → number of the request, and whether the child has namespaces of its own."""
        self._spare: Spare | None = None
        self._wanted: Kind | None = None
        self._wasted = 0
        """Children in a row that ended before a request came."""

    def serve(self) -> None:
        """Answer requests until the supervisor closes its end; then take every child along."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._end)
        self._send(ready=os.getpid())
        while True:
            makes_one = self._wanted is not None and self._spare is None and self._wasted < _MOST_WASTED
            readable, _, _ = select.select([self._control.fileno(), wake_read], [], [], _SPARE_SECONDS if makes_one else None)
            if wake_read in readable:
                os.read(wake_read, 4096)
            self._reap()
            if self._control.fileno() in readable and not self._answer():
                break
            if not readable and self._wanted is not None:
                self._spare = _made(self._wanted)
        self._kill_all()

    def _answer(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 2)
        except ConnectionError:
            return False
        if not message:
            return False
        content = json.loads(message)
        number = content["number"]
        answer: dict[str, object]
        try:
            answer = {"started": self._start(number, content["request"], descriptors)}
        except Exception as error:
            traceback.print_exc()
            answer = {"refused": f"{type(error).__name__}: {error}"}
        finally:  # before the answer: should this process be stopped from then on, the streams end with the child all the same
            for descriptor in descriptors:
                os.close(descriptor)
        self._send(number=number, **answer)
        return True

    def _start(self, number: int, fields: JsonObject, descriptors: list[int]) -> int:
        asked, request = Request.from_json(fields), json.dumps(fields).encode()
        kind = asked.kind
        spare, self._spare, self._wanted = self._spare, None, replace(kind, group=asked.next_group)
        if spare is not None and not (spare.kind == kind and spare.hand(request, descriptors)):
            spare.kill()
            spare = None
        if spare is None:
            spare = Spare(kind)
            spare.send(request, descriptors)
        else:
            self._wasted = 0
        spare.close()
        self._children[spare.pid] = (number, kind.enclosed)
        return spare.pid

    def _reap(self) -> None:
        """Kill what a dead child left in its group, while its process id still names that group; then collect and report it."""
        while self._children or self._spare is not None:
            dead = _dead()
            if dead is None:
                return
            kill_group(dead)
            _, status, usage = os.wait4(dead, 0)
            if dead in self._children:
                number, enclosed = self._children.pop(dead)
                code = namespaces.returncode(status, enclosed=enclosed)
                peak, seconds = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
                self._send(number=number, exited=dead, returncode=code, peak_memory_bytes=peak, cpu_seconds=seconds)
            elif self._spare is not None and dead == self._spare.pid:
                self._spare.close()
                self._spare = None
                self._wasted += 1

    def _send(self, **message: object) -> None:
        try:
            self._control.send(json.dumps(message).encode())
        except OSError:  # the supervisor is gone
            self._end()

    def _end(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        self._kill_all()
        os._exit(0)

    def _kill_all(self) -> None:
        for child in self._children:
            kill_group(child)
        if self._spare is not None:
            self._spare.kill()


def _made(kind: Kind) -> Spare | None:
    try:
        return Spare(kind)
    except OSError:  # of processes or memory: the next request tries again, and says so
        return None


def _dead() -> int | None:
    """A child that has ended and was not collected yet."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def main(arguments: list[str]) -> None:
    """Preload, then serve."""
    descriptor, supervisor = int(arguments[0]), int(arguments[1])
    die_with_parent(supervisor, signal.SIGTERM)
    os.setsid()  # a Ctrl-C in the terminal is for the supervisor to act on
    control = socket.socket(fileno=descriptor)
    control.set_inheritable(False)
    if "--cold" not in arguments:
        preload()
        if thread_count() != 1:
            sys.exit(f"an imported library started {thread_count() - 1} threads, which would not survive a fork")
    gc.collect()
    gc.freeze()
    Parent(control).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
