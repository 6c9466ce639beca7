"""Says that the runners of this process are there, for as long as they are."""

import threading
from collections.abc import Callable, Mapping

from sqlalchemy.exc import SQLAlchemyError

from core.database.db import Session
from core.jobs import worker_registry
from core.jobs.worker_registry import Capacity
from core.logging import logger
from core.service import Service

_log = logger(__name__)


class RollCall(threading.Thread):
    """Renews the presence of this process's queues from `start` until `end`.

    Args:
        service: The parts of the service.
        queues: What the runners serve, and the largest job that they take from each.
        trouble: Why a queue's runner takes nothing at the moment; None where it does.
        worker: The process's name.
    """

    def __init__(self, service: Service, queues: Mapping[str, Capacity], worker: str, trouble: Callable[[str], str | None]) -> None:
        super().__init__(name="roll-call", daemon=True)
        self._service = service
        self._queues = queues
        self._worker = worker
        self._trouble = trouble
        self.present = dict.fromkeys(queues, 1)
        """How many workers serve each queue, this one included."""
        self._ended = threading.Event()

    def run(self) -> None:
        """Answer every few seconds, then take leave."""
        while not self._ended.is_set():
            self._say(self._note)
            self._ended.wait(worker_registry.REPEAT_SECONDS)
        self._say(lambda session, queue: worker_registry.leave(session, queue, self._worker))

    def end(self) -> None:
        """Take leave; the thread needs no more than one transaction for it."""
        self._ended.set()
        if self.is_alive():
            self.join(worker_registry.REPEAT_SECONDS)

    def _note(self, session: Session, queue: str) -> None:
        worker_registry.note(session, queue, self._worker, self._queues[queue], trouble=self._trouble(queue))
        self.present[queue] = max(1, worker_registry.count(session, queue))

    def _say(self, what: Callable[[Session, str], None]) -> None:
        try:
            with self._service.database.unit_of_work() as session:
                for queue in self._queues:
                    what(session, queue)
        except SQLAlchemyError as error:
            _log.warning("presence not written", error=str(error).splitlines()[0])
