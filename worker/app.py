"""The Celery application: `modelpress worker`, or `celery -A worker.app worker -Q cpu,inspect -P threads -c 1`.

A task is a doorbell: it wakes the runner of its queue and ends. Jobs run in the runners' own threads, which live from before the
first connection to the broker until the worker's shutdown, so that a dead broker delays a job by a second and loses none.
"""

import os
import signal
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from logging import WARNING, getLogger
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import celeryd_after_setup, setup_logging, worker_shutdown, worker_shutting_down

from core import jobs, logging, tracing
from core.queue import TASK, make_app
from core.service import Service
from core.settings import Settings
from engine.process.launcher import Launcher, LaunchError
from engine.process.sandbox.probe import Isolation, choose
from worker import devices
from worker.cgroups import Groups
from worker.deliverer import Deliverer
from worker.roll_call import RollCall
from worker.runner import Runner
from worker.workplace import Workplace

JOIN_MARGIN_SECONDS = 10
"""Beside the drain: how long a worker that was asked to stop takes at most to write its end."""
_log = logging.logger(__name__)

settings = Settings()
app: Celery = make_app(settings)
app.conf.broker_connection_max_retries = None  # jobs run without a broker, and it may come back any time


class Worker:
    """The runners of one process and what they share: one service, one parent of job children, one workplace."""

    def __init__(self, queues: list[str]) -> None:
        with ExitStack() as stack:  # what was begun ends where the rest cannot begin: the end of this process would wait for it
            self._open(queues, stack)
            self._stack = stack.pop_all()

    def _open(self, queues: list[str], stack: ExitStack) -> None:
        service = stack.enter_context(Service.open(settings))
        stack.enter_context(tracing.traces(settings, "modelpress-worker"))
        workplace = Workplace(settings.data_dir.resolve() / "work")
        stack.callback(workplace.close)
        groups = Groups()
        stack.callback(groups.close)
        launcher = Launcher()
        stack.callback(launcher.close)
        isolation = _choose_isolation(launcher, workplace, gpu=settings.gpu_queue in queues)
        self._deliverer = Deliverer(service) if settings.webhook_queue in queues else None
        queues = [queue for queue in queues if queue != settings.webhook_queue]
        own = {queue: devices.assigned_gpus() if queue == settings.gpu_queue else devices.cpu() for queue in queues}
        capacities = {queue: device.capacity for queue, device in own.items()}
        self._roll_call = RollCall(
            service,
            capacities,
            f"{socket.gethostname()}:{os.getpid()}",
            lambda queue: _first(item.trouble() for item in self._runners[queue]),
        )
        isolation.add_done_callback(lambda chosen: None if chosen.cancelled() or chosen.exception() else self._roll_call.start())
        # Inspections of several projects go side by side, so that none waits for another's file; those of one take turns.
        inspect = settings.inspect_queue
        self._runners = {
            queue: [
                Runner(
                    service,
                    queue=queue,
                    device=own[queue],
                    launcher=launcher,
                    isolation=isolation,
                    workplace=workplace,
                    groups=groups,
                    most_per_project=(lambda: self._roll_call.present[inspect]) if queue == inspect else (lambda: jobs.UNBOUNDED),
                )
                for _ in range(settings.inspections_at_once if queue == inspect else 1)
            ]
            for queue in queues
        }
        for runner in self._all():
            runner.start()
        if self._deliverer is not None:
            self._deliverer.start()

    def _all(self) -> list[Runner]:
        return [runner for runners in self._runners.values() for runner in runners]

    def ring(self, queue: str) -> None:
        """Wake the runner of `queue`."""
        if queue == settings.webhook_queue and self._deliverer is not None:
            self._deliverer.ring()
        for runner in self._runners.get(queue, ()):
            runner.ring()

    def drain(self) -> None:
        """Stop claiming; running jobs end or are given back."""
        for runner in self._all():
            runner.drain()
        if self._deliverer is not None:
            self._deliverer.drain()

    def close(self) -> None:
        """Drain, wait, and leave nothing behind."""
        self.drain()
        deadline = time.monotonic() + settings.drain_seconds + JOIN_MARGIN_SECONDS
        for runner in self._all():
            runner.join(max(0.0, deadline - time.monotonic()))
        if self._deliverer is not None:
            self._deliverer.join(max(0.0, deadline - time.monotonic()))
        self._roll_call.end()
        self._stack.close()


def _first(sentences: Iterator[str | None]) -> str | None:
    return next((sentence for sentence in sentences if sentence), None)


_worker: Worker | None = None


def doorbell(queue: str) -> None:
    """There may be work in `queue`."""
    if _worker is not None:
        _worker.ring(queue)


def run(queues: list[str]) -> None:
    """Serve `queues` until SIGTERM. Raises `no_device`."""
    if settings.gpu_queue in queues:
        devices.assigned_gpus()
    if not settings.verbose:
        # Celery warns of root because it may unpickle; it reads JSON only here, and jobs run in a sandbox.
        warnings.filterwarnings("ignore", category=SecurityWarning)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "warning"]
    app.worker_main(
        ["--quiet", "worker", "-Q", ",".join(queues), "-P", "threads", "-c", "1", "-n", f"{'-'.join(queues)}-{os.getpid()}@%h", *quiet]
    )


def _configure_logging(**_: Any) -> None:
    logging.configure(settings)
    for name in ("celery.app.trace", "celery.worker.strategy"):  # two lines for each doorbell
        getLogger(name).setLevel(WARNING)


def _start(instance: Any, **_: Any) -> None:
    global _worker  # noqa: PLW0603 - Celery's signals are global as well
    try:
        _worker = Worker(list(instance.app.amqp.queues.consume_from))
    except Exception as error:
        # Celery would log it and go on without a runner.
        _log.exception("the worker cannot start")
        raise SystemExit(f"The worker cannot start: {error}") from error


def _drain(**_: Any) -> None:
    if _worker is not None:
        _worker.drain()


def _close(**_: Any) -> None:
    if _worker is not None:
        _worker.close()


def _choose_isolation(launcher: Launcher, workplace: Workplace, *, gpu: bool) -> "Future[Isolation]":
    """Probe while the worker goes on starting: the warm parent takes seconds to import torch."""

    def probe() -> Isolation:
        try:
            isolation = choose(launcher, workplace.path, gpu=gpu)
        except LaunchError:
            if not launcher.closed:
                _log.exception("no job child can be started here")
                os.kill(os.getpid(), signal.SIGTERM)  # whoever supervises this worker tries again
            raise
        open_lines = [name for name, answer in isolation.probe.items() if answer == "open"]
        log = _log.info if isolation.tier >= 1 else _log.warning
        log("isolation chosen", tier=isolation.tier, layers=list(isolation.layers), open=open_lines)
        return isolation

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probe")
    try:
        return executor.submit(probe)
    finally:
        executor.shutdown(wait=False)


app.task(doorbell, name=TASK)
setup_logging.connect(_configure_logging)
celeryd_after_setup.connect(_start)
worker_shutting_down.connect(_drain)
worker_shutdown.connect(_close)
