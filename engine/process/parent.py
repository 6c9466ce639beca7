"""One parent of job children, as its supervisor sees it: the process of `engine.process.warm` and the thread that listens to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

from engine.process.environment import of_parent
from engine.process.offspring import Child, Exit, LaunchError, NoAnswer
from engine.process.request import NAMESPACES, Request
from engine.process.warm import MAX_MESSAGE_BYTES

START_TIMEOUT_SECONDS = 120.0
"""Longest wait for a parent to have preloaded, on a cold disk."""
ANSWER_TIMEOUT_SECONDS = 20.0
"""Longest wait for a fork, which takes milliseconds."""


class Parent:
    """A parent that is being started; `wait_until_ready` before anything else.

    Every request has a number, which its answers bear: an answer that comes after nobody waits for it any more changes nothing, and what
    it announces is killed.
    """

    def __init__(self, *, warm: bool) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "engine.process.warm", str(theirs.fileno()), str(os.getpid()), *([] if warm else ["--cold"])]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, env=of_parent(os.environ))
        self.pid = self._process.pid
        self.alive = True
        self.retired = False
        """Starts no more children, and is killed when the last one has ended."""
        self._news = threading.Condition()
        self._children: dict[int, Child] = {}
        self._starting: dict[int, Child] = {}
        self._refusals: dict[int, str] = {}
        self._number = 0

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
        """Start one child. Raises ConnectionError if the parent is gone, NoAnswer if it is silent, LaunchError if it refuses."""
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        log_read, log_write = os.pipe2(os.O_CLOEXEC)
        with self._news:
            self._number = number = self._number + 1
            child = Child(events_read, log_read, enclosed=NAMESPACES in request.layers, forget=lambda: self._forget(number))
            try:
                self._starting[number] = child
                try:
                    socket.send_fds(self._control, [request.to_json(number)], [events_write, log_write], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    raise NoAnswer from None
                self._news.wait_for(lambda: number not in self._starting or not self.alive, timeout=ANSWER_TIMEOUT_SECONDS)
                if not self.alive:
                    raise ConnectionError("the parent of job children is gone")
                if number in self._starting:
                    raise NoAnswer
                if refusal := self._refusals.pop(number, None):
                    raise LaunchError(refusal)
            except BaseException:
                self._starting.pop(number, None)
                child.close()  # a child that is forked for it all the same finds that nobody listens, and ends
                raise
            finally:
                os.close(events_write)
                os.close(log_write)
        return child

    def retire(self) -> None:
        """Start nothing more, and be gone once nothing of it runs."""
        with self._news:
            self.retired = True
            self._kill_if_done()

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

    def _listen(self) -> None:
        try:
            while message := self._receive():
                with self._news:
                    self._take(json.loads(message))
                    self._news.notify_all()
        except Exception:
            traceback.print_exc()
        finally:
            # Nobody would learn of a child's end any more: whatever the reason, the parent goes and the next start brings another.
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._lost()

    def _receive(self) -> bytes:
        try:
            return self._control.recv(MAX_MESSAGE_BYTES)
        except OSError:
            return b""

    def _take(self, message: dict[str, Any]) -> None:
        number: int = message["number"]
        if "exited" in message:
            if (child := self._children.pop(number, None)) is not None:
                child.end(Exit(message["returncode"], message["peak_memory_bytes"], message["cpu_seconds"]))
            self._kill_if_done()
        elif (child := self._starting.pop(number, None)) is None:
            if "started" in message:  # nobody waited for it so long
                _kill_group(message["started"])
        elif "started" in message:
            child.pid = message["started"]
            self._children[number] = child
        else:
            self._refusals[number] = message["refused"]

    def _forget(self, number: int) -> None:
        """A child's end was learnt from the kernel: this parent is stopped."""
        with self._news:
            self._children.pop(number, None)
            self.retired = True
            self._kill_if_done()

    def _kill_if_done(self) -> None:
        if self.retired and not self._children and not self._starting:
            self._process.kill()

    def _lost(self) -> None:
        """The process is gone, and so are its children; what they started may not be."""
        with self._news:
            self.alive = False
            for child in self._children.values():
                child.signal(signal.SIGKILL)
                child.end(Exit(-signal.SIGKILL, parent_lost=True))
            self._children.clear()
            self._news.notify_all()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
