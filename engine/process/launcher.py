"""The supervisor's end: keeps a warm parent alive, starts job children through it, and learns how they ended. Torch-free."""

import threading
from concurrent.futures import ThreadPoolExecutor

from engine.process.offspring import Child, Exit, LaunchError, NoAnswer
from engine.process.parent import Parent
from engine.process.request import Request

__all__ = ["Child", "Exit", "LaunchError", "Launcher"]
_TRIES = 2


class Launcher:
    """Starts job children. One parent serves all of them.

    A parent that died is replaced at the next start. One that does not answer (stopped, swapped out, on a machine that was frozen) is
    retired: another takes its place at once, what it started goes on, and it is killed as soon as nothing of it runs any more.

    Thread-safe. A parent is always spawned from one long-lived thread: the kernel sends its death signal when the *thread* that
    spawned it ends.
    """

    def __init__(self, *, warm: bool = True) -> None:
        self._warm = warm
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="child-parent")
        self._lock = threading.Lock()
        self._closed = False
        self._parent: Parent | None = None
        self._retired: list[Parent] = []

    def start(self, request: Request) -> Child:
        """Start one child. Waits for the parent to be ready. Raises LaunchError."""
        with self._lock:
            for _ in range(_TRIES):
                parent = self._alive()
                try:
                    return parent.start(request)
                except NoAnswer:
                    parent.retire()
                except ConnectionError:  # it died since; the next one is fresh
                    continue
            raise LaunchError("the parent of job children dies or does not answer whenever it is started; the worker's output says why")

    def warm_up(self) -> None:
        """Have the parent ready. Raises LaunchError."""
        with self._lock:
            self._alive()

    @property
    def parent_pid(self) -> int | None:
        """Process id of the living parent."""
        return self._parent.pid if self._parent and self._parent.alive else None

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """End every parent, even while it starts, and with it every child."""
        self._closed = True
        for parent in (self._parent, *self._retired):
            if parent is not None:
                parent.close()
        self._spawner.shutdown()

    def _alive(self) -> Parent:
        for parent in [*self._retired]:
            if not parent.alive:
                parent.close()
                self._retired.remove(parent)
        if self._parent is not None:
            if self._parent.alive and not self._parent.retired:
                return self._parent
            if self._parent.alive:
                self._retired.append(self._parent)
            else:
                self._parent.close()
        try:
            return self._ready(warm=self._warm)
        except LaunchError:
            if not self._warm:
                raise
            self._warm = False  # preloading fails on this machine: every child will import for itself
            return self._ready(warm=False)

    def _ready(self, *, warm: bool) -> Parent:
        if self._closed:
            raise LaunchError("the launcher was closed")
        try:
            self._parent = self._spawner.submit(Parent, warm=warm).result()
        except RuntimeError as error:  # it was closed meanwhile
            raise LaunchError("the launcher was closed") from error
        if self.closed:
            self._parent.close()
        self._parent.wait_until_ready()
        return self._parent
