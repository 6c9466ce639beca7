"""The claim loop: one thread for each queue and device, woken by the doorbell and, should that be lost, by itself."""

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from core import failpoints, jobs
from core.logging import bound, logger
from core.service import Service
from engine.process.launcher import Launcher
from engine.process.sandbox.probe import Isolation
from worker.attempt import ENTRY, Attempt
from worker.cgroups import Groups
from worker.devices import Device
from worker.workplace import Workplace

POLL_SECONDS = 1.0
"""How long a sleeping worker trusts the doorbell."""
_PATIENCE_SECONDS = 60.0
"""How long the claim loop may stand still, or a child take to start, before the worker reports that it takes nothing."""
_log = logger(__name__)


class Runner(threading.Thread):
    """Claims jobs of one queue and runs them one after another until it is drained.

    Args:
        service: The parts of the service.
        queue: Where the jobs come from.
        device: What they run on.
        launcher: Starts the children.
        isolation: What confines them; known once the probe has run.
        workplace: Where they live.
        groups: Makes their control groups.
        most_per_project: How many running jobs of the queue a project may have.
        entry: What they run.
    """

    def __init__(
        self,
        service: Service,
        *,
        queue: str,
        device: Device,
        launcher: Launcher,
        isolation: "Future[Isolation]",
        workplace: Workplace,
        groups: Groups,
        entry: str = ENTRY,
        most_per_project: Callable[[], int] = lambda: jobs.UNBOUNDED,
    ) -> None:
        super().__init__(name=f"runner-{queue}", daemon=True)
        self._most_per_project = most_per_project
        self.queue = queue
        self._service = service
        self._device = device
        self._launcher = launcher
        self._isolation = isolation
        self._workplace = workplace
        self._groups = groups
        self._entry = entry
        self._bell = threading.Event()
        self._lock = threading.Lock()
        self._draining = False
        self._attempt: Attempt | None = None
        self._turned = time.monotonic()
        self._name = f"{socket.gethostname()}:{os.getpid()}:{queue}"[:200]

    def ring(self) -> None:
        """There may be work."""
        self._bell.set()

    def drain(self) -> None:
        """Claim nothing more; the running job ends, or is given back within `drain_seconds`."""
        with self._lock:
            self._draining = True
            if self._attempt is not None:
                self._attempt.drain()
        self._bell.set()

    def trouble(self) -> str | None:
        """Why this runner takes nothing, in a sentence; None where it takes jobs, or has one. Callable from any thread."""
        attempt = self._attempt
        if attempt is not None:
            waiting = attempt.waits_for_child_seconds
            return "no job child can be started" if waiting is not None and waiting > _PATIENCE_SECONDS else None
        if not self.is_alive() and not self._draining:
            return "the claim loop has ended"
        if time.monotonic() - self._turned > _PATIENCE_SECONDS:
            return "the claim loop stands still"
        return self._workplace.trouble()

    def run(self) -> None:
        """Claim and run until drained."""
        self._isolation.add_done_callback(lambda _: self._bell.set())
        while not self._isolation.done() and not self._draining:
            self._bell.wait()
            self._bell.clear()
        if self._draining:
            return
        isolation = self._isolation.result()
        reported: str | None = None
        while not self._draining:
            self._bell.clear()
            self._turned = time.monotonic()
            if trouble := self._workplace.trouble():  # a job that is taken now would only lose an attempt
                if trouble != reported:
                    _log.error("no job is taken", queue=self.queue, trouble=trouble)
                reported = trouble
                self._bell.wait(POLL_SECONDS)
                continue
            reported = None
            try:
                worked = self._work(isolation)
            except Exception:
                _log.exception("could not claim or end a job", queue=self.queue)
                worked = False
            if not worked and not self._draining:
                self._bell.wait(POLL_SECONDS)

    def _work(self, isolation: Isolation) -> bool:
        """Claim one job and run it; False when there was none."""
        with self._service.database.unit_of_work() as session:
            claim = jobs.claim(
                session,
                self.queue,
                worker=self._name,
                device=self._device.name,
                lease_seconds=self._service.settings.lease_seconds,
                isolation=isolation.to_json(),
                device_memory_bytes=self._device.capacity.memory_bytes,
                devices=self._device.capacity.devices,
                most_per_project=self._most_per_project(),
            )
            if claim is None:
                return False
            if claim.devices > 1:
                isolation = isolation.of_several()
                jobs.confined(session, claim, isolation.to_json())
        failpoints.hit("worker.claimed")
        with bound(job_id=claim.job_id, fence=claim.fence):
            _log.info("attempt started", attempt=claim.attempt, kind=claim.kind)
            attempt = Attempt(
                self._service,
                claim,
                launcher=self._launcher,
                isolation=isolation,
                device=self._device,
                workplace=self._workplace,
                groups=self._groups,
                entry=self._entry,
            )
            with self._lock:
                self._attempt = attempt
                if self._draining:
                    attempt.drain()
            try:
                attempt.run()
            finally:
                with self._lock:
                    self._attempt = None
            _log.info("attempt ended")
        return True
