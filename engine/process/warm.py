"""The parent of job children: `python -m engine.process.warm SOCKET_FD SUPERVISOR_PID [--cold]`.

It imports torch and the engine once (about five seconds) and then forks a child for each request, which takes milliseconds.
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
from contextlib import suppress
from types import FrameType

import engine
from engine.process import process
from engine.process.linux import die_with_parent, fork_into, thread_count
from engine.process.request import Request
from engine.process.sandbox import namespaces
from engine.process.sandbox.isolation import NAMESPACES

MAX_MESSAGE_BYTES = 1 << 16
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
            print(f"not preloaded: {name}: {error!r}", file=sys.stderr)  # noqa: T201


class Parent:
    """Forks children, and reports and cleans up after each of them."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, bool]] = {}
        """Process id → number of the request, and whether the child has namespaces of its own."""

    def serve(self) -> None:
        """Answer requests until the supervisor closes its end; then take every child along."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGTERM, self._end)
        self._send(ready=os.getpid())
        while True:
            readable, _, _ = select.select([self._control.fileno(), wake_read], [], [])
            if wake_read in readable:
                os.read(wake_read, 4096)
            self._reap()
            if self._control.fileno() in readable and not self._answer():
                break
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
            answer = {"started": self._fork(number, Request.from_json(content["request"]), *descriptors)}
        except Exception as error:
            traceback.print_exc()
            answer = {"refused": f"{type(error).__name__}: {error}"}
        finally:  # before the answer: should this process be stopped from then on, the streams end with the child all the same
            for descriptor in descriptors:
                os.close(descriptor)
        self._send(number=number, **answer)
        return True

    def _fork(self, number: int, request: Request, events: int, log: int) -> int:
        parent, owner, enclosed = os.getpid(), (os.getuid(), os.getgid()), NAMESPACES in request.layers
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the child has dropped these handlers
        child = _fork(enclosed=enclosed)
        if child:
            self._children[child] = (number, enclosed)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            return child
        status = 70
        try:
            status = process.run(request, parent, owner, events, log)
        except BaseException:  # whatever it is, this copy of the parent must not go on serving
            traceback.print_exc()
        finally:
            os._exit(status)

    def _reap(self) -> None:
        """Kill what a dead child left in its group, while its process id still names that group; then collect and report it."""
        while self._children:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None:
                return
            _kill_group(dead.si_pid)
            _, status, usage = os.wait4(dead.si_pid, 0)
            if dead.si_pid in self._children:
                number, enclosed = self._children.pop(dead.si_pid)
                code = namespaces.returncode(status, enclosed=enclosed)
                peak, seconds = usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
                self._send(number=number, exited=dead.si_pid, returncode=code, peak_memory_bytes=peak, cpu_seconds=seconds)

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
            _kill_group(child)


def _fork(*, enclosed: bool) -> int:
    """Fork, into namespaces where the child is to have them and the kernel gives them: otherwise the child reports that it has none."""
    if enclosed:
        with suppress(OSError):
            return fork_into(namespaces.FLAGS)
    return os.fork()


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its session yet
        os.kill(leader, signal.SIGKILL)


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
