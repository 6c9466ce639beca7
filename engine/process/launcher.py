"""The supervisor's end: keeps a warm parent alive, starts job children through it, and learns how they ended. Torch-free."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from engine.process.environment import of_parent
from engine.process.request import Request
from engine.process.warm import MAX_MESSAGE_BYTES

START_TIMEOUT_SECONDS = 120.0
"""Longest wait for a parent to have preloaded, on a cold disk."""


class LaunchError(Exception):
    """No child could be started."""


@dataclass(frozen=True)
class Exit:
    """How a child ended."""

    returncode: int
    """Exit status, or minus the number of the signal that killed it."""
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    parent_lost: bool = False
    """The parent of job children died and took the child along."""


class Child:
    """One running job child."""

    def __init__(self, events: int, log: int) -> None:
        self.pid = 0
        self.events = events
        """Read end of the event stream; at its end the whole group is gone."""
        self.log = log
        """Read end of standard output and error."""
        self.exit: Exit | None = None
        self._ended = threading.Event()

    def wait(self, timeout: float | None = None) -> Exit | None:
        """How the child ended, or None if it still runs after `timeout` seconds."""
        self._ended.wait(timeout)
        return self.exit

    def signal(self, number: int) -> None:
        """Send a signal to the child's whole group; nothing happens once it has ended."""
        if self.pid and self.exit is None:
            with suppress(ProcessLookupError):  # it ended a moment ago
                os.killpg(self.pid, number)

    def close(self) -> None:
        """Give up both streams."""
        for descriptor in (self.events, self.log):
            os.close(descriptor)

    def _end(self, exit_: Exit) -> None:
        if self.exit is None:
            self.exit = exit_
            self._ended.set()


class Launcher:
    """Starts job children. One parent serves all of them; a parent that died is replaced at the next start.

    Thread-safe. The parent is always spawned from one long-lived thread: the kernel sends its death signal when the *thread*
    that spawned it ends.
    """

    def __init__(self, *, warm: bool = True) -> None:
        self._warm = warm
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-parent")
        self._lock = threading.Lock()
        self._closed = False
        self._parent: _Parent | None = None

    def start(self, request: Request) -> Child:
        """Start one child. Waits for the parent to be ready. Raises LaunchError."""
        with self._lock:
            for _ in range(2):
                parent = self._alive()
                try:
                    return parent.start(request)
                except ConnectionError:  # it died since; the next one is fresh
                    continue
            raise LaunchError("the parent of job children dies whenever it is started; the worker's output says why")

    def warm_up(self) -> None:
        """Have the parent ready. Raises LaunchError."""
        with self._lock:
            self._alive()

    @property
    def parent_pid(self) -> int | None:
        """Process id of the living parent."""
        return self._parent.pid if self._parent and self._parent.alive else None

    def close(self) -> None:
        """End the parent, even while it starts, and with it every child."""
        self._closed = True
        if self._parent is not None:
            self._parent.close()
        self._spawner.shutdown()

    def _alive(self) -> "_Parent":
        if self._parent is not None and self._parent.alive:
            return self._parent
        if self._parent is not None:
            self._parent.close()
        try:
            return self._ready(warm=self._warm)
        except LaunchError:
            if not self._warm:
                raise
            self._warm = False  # preloading fails on this machine: every child will import for itself
            return self._ready(warm=False)

    def _ready(self, *, warm: bool) -> "_Parent":
        if self._closed:
            raise LaunchError("the launcher was closed")
        self._parent = self._spawner.submit(_Parent, warm=warm).result()
        self._parent.wait_until_ready()
        return self._parent


class _Parent:
    """One process of `engine.process.warm` and the thread that listens to it."""

    def __init__(self, *, warm: bool) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "engine.process.warm", str(theirs.fileno()), str(os.getpid()), *([] if warm else ["--cold"])]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=of_parent(os.environ))
        self.pid = self._process.pid
        self.alive = True
        self._news = threading.Condition()
        self._children: dict[int, Child] = {}
        self._starting: Child | None = None
        self._refusal = ""

    def wait_until_ready(self) -> None:
        """Wait for the preload, then listen. Raises LaunchError."""
        self._control.settimeout(START_TIMEOUT_SECONDS)
        try:
            ready = self._control.recv(MAX_MESSAGE_BYTES)
        except OSError:
            ready = b""
        if not ready:
            self.close()
            raise LaunchError("the parent of job children did not start; the worker's output says why")
        self._control.settimeout(None)
        threading.Thread(target=self._listen, name="child-listener", daemon=True).start()

    def start(self, request: Request) -> Child:
        """Start one child. Raises ConnectionError if the parent is gone, LaunchError if it refuses."""
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        log_read, log_write = os.pipe2(os.O_CLOEXEC)
        child = Child(events_read, log_read)
        try:
            with self._news:
                self._starting, self._refusal = child, ""
                socket.send_fds(self._control, [request.to_json()], [events_write, log_write])
                self._news.wait_for(lambda: self._answered() or not self.alive, timeout=START_TIMEOUT_SECONDS)
                if not self._answered():
                    raise ConnectionError("the parent of job children does not answer")
                if refusal := self._refusal:
                    raise LaunchError(refusal)
        except BaseException:
            child.close()
            raise
        finally:
            os.close(events_write)
            os.close(log_write)
        return child

    def close(self) -> None:
        """End the process, and with it its children."""
        self._process.terminate()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lost()
        self._control.close()

    def _answered(self) -> bool:
        return self._starting is None

    def _listen(self) -> None:
        while True:
            try:
                message = self._control.recv(MAX_MESSAGE_BYTES)
            except OSError:
                message = b""
            if not message:
                return self._lost()
            with self._news:
                self._take(json.loads(message))
                self._news.notify_all()

    def _take(self, message: dict[str, Any]) -> None:
        if "exited" in message:
            self._children.pop(message["exited"])._end(
                Exit(os.waitstatus_to_exitcode(message["status"]), message["peak_memory_bytes"], message["cpu_seconds"])
            )
        elif self._starting is not None:
            if "started" in message:
                self._starting.pid = message["started"]
                self._children[self._starting.pid] = self._starting
            else:
                self._refusal = message["refused"]
            self._starting = None

    def _lost(self) -> None:
        """The process is gone, and so are its children; what they started may not be."""
        with self._news:
            self.alive = False
            for child in self._children.values():
                child.signal(signal.SIGKILL)
                child._end(Exit(-signal.SIGKILL, parent_lost=True))
            self._children.clear()
            self._news.notify_all()
