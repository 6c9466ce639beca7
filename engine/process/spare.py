"""A job child that is ready before its request comes, as the parent that forked it sees it."""

import os
import select
import signal
import socket
import traceback
from contextlib import suppress

from engine.process import process
from engine.process.linux import fork_into
from engine.process.request import Kind
from engine.process.sandbox import namespaces

TAKEN_SECONDS = 1.0
"""How long a child that was ready may take to take its request; then another one is forked."""


class Spare:
    """One child that waits. For a process with one thread, as it forks.

    Raises:
        OSError: The kernel forks no more.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent, owner = os.getpid(), (os.getuid(), os.getgid())
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until the child has dropped these handlers
        try:
            self.pid = _fork(enclosed=kind.enclosed)
        finally:
            if getattr(self, "pid", 1):
                theirs.close()
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if self.pid:
            return
        status = 70
        try:
            status = process.run(kind, parent, owner, theirs)
        except BaseException:  # whatever it is, this copy of the parent must not go on serving
            traceback.print_exc()
        finally:
            os._exit(status)

    def hand(self, request: bytes, descriptors: list[int]) -> bool:
        """Give it the request; whether it took it."""
        return self.send(request, descriptors) and bool(select.select([self._channel], [], [], TAKEN_SECONDS)[0]) and self._took()

    def send(self, request: bytes, descriptors: list[int]) -> bool:
        """Give it the request and wait for nothing; whether it can be there."""
        try:
            socket.send_fds(self._channel, [request], descriptors)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Nothing more is to be said; a child that waits ends."""
        self._channel.close()

    def kill(self) -> None:
        """End it, whatever it does."""
        self.close()
        kill_group(self.pid)

    def _took(self) -> bool:
        try:
            return self._channel.recv(len(process.TAKEN)) == process.TAKEN
        except OSError:
            return False


def _fork(*, enclosed: bool) -> int:
    """Fork, into namespaces where the child is to have them and the kernel gives them: otherwise the child reports that it has none."""
    if enclosed:
        with suppress(OSError):
            return fork_into(namespaces.FLAGS)
    return os.fork()


def kill_group(leader: int) -> None:
    """Kill a child with all that it started."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its session yet
        with suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
