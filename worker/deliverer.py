"""Sends webhooks: woken by the doorbell and, should that be lost, by itself; several at a time, few to one address."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from core import egress, failpoints
from core.egress import EgressFailed, EgressRefused
from core.errors import ServiceError
from core.logging import logger
from core.mlflow import runs, story
from core.mlflow.rest import Rest, Server
from core.service import Service
from core.webhooks import deliveries
from core.webhooks.deliveries import Answer, Attempt
from modelpress.resources import signatures

POLL_SECONDS = 1.0
AT_ONCE = 8
ANSWER_SECONDS = 15.0
"""How long the other side may take, connecting included."""
_MARGIN_SECONDS = 5.0
"""Before the end of its lease an attempt at an MLflow server has come to its end."""
_MOST_ANSWER_BYTES = 64 * 1024
_EXCERPT_BYTES = 2000
_log = logger(__name__)


class Deliverer(threading.Thread):
    """Claims what is due and sends it until it is drained; what is under way then comes to its end."""

    def __init__(self, service: Service) -> None:
        super().__init__(name="deliverer", daemon=True)
        self._service = service
        self._bell = threading.Event()
        self._draining = False
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        """Attempts under way, by address."""

    def ring(self) -> None:
        """There may be something to send."""
        self._bell.set()

    def drain(self) -> None:
        """Claim nothing more."""
        self._draining = True
        self._bell.set()

    def run(self) -> None:
        """Claim and send until drained."""
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="deliverer") as pool:
            while not self._draining:
                self._bell.clear()
                try:
                    claimed = self._claim()
                except Exception:
                    # The database may be away for a while.
                    _log.exception("could not claim webhook deliveries")
                    claimed = []
                for attempt in claimed:
                    pool.submit(self._deliver, attempt).add_done_callback(_reported)
                if not claimed and not self._draining:
                    self._bell.wait(POLL_SECONDS)

    def _claim(self) -> list[Attempt]:
        with self._lock:
            busy = dict(self._busy)
        free = AT_ONCE - sum(busy.values())
        if free <= 0:
            return []
        with self._service.database.reader() as session:
            if not deliveries.due(session):
                return []
        with self._service.database.unit_of_work() as session:
            claimed = deliveries.claim(session, free, busy, lease_seconds=self._service.settings.webhook_lease_seconds)
        with self._lock:
            self._busy.update(attempt.webhook_id for attempt in claimed)
        return claimed

    def _deliver(self, attempt: Attempt) -> None:
        try:
            failpoints.hit("deliver.before_send")
            answer = track(self._service, attempt, lambda: self._draining) if attempt.mlflow else send(self._service, attempt)
            failpoints.hit("deliver.after_send")
            with self._service.database.unit_of_work() as session:
                status = deliveries.settle(session, attempt, answer)
            named = {"delivery_id": attempt.delivery_id, "webhook_id": attempt.webhook_id, "number": attempt.number, "status": status}
            _log.info("webhook attempt", status_code=answer.status_code, error=answer.error, **named)
        finally:
            with self._lock:
                self._busy[attempt.webhook_id] -= 1
                self._busy += Counter()  # forgets those with none under way
            self._bell.set()


def _reported(done: "Future[None]") -> None:
    """Log what went wrong; the delivery is tried again when its lease has run out."""
    if (error := done.exception()) is not None:
        _log.error("webhook attempt was not written down", error=f"{type(error).__name__}: {error}")


def send(service: Service, attempt: Attempt) -> Answer:
    """One attempt, signed with every valid secret. A redirect is no success, and is not followed."""
    started = time.monotonic()
    moment = int(time.time())
    signed = " ".join(signatures.signature(secret, attempt.message_id, moment, attempt.body) for secret in attempt.secrets)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": attempt.message_id,
        "webhook-timestamp": str(moment),
        "webhook-signature": signed,
    }
    status_code, error, excerpt, pause = None, None, b"", 0.0
    try:
        with egress.request(
            "POST",
            attempt.url,
            policy=service.settings.egress,
            limit_bytes=_MOST_ANSWER_BYTES,
            seconds=ANSWER_SECONDS,
            headers=headers,
            body=attempt.body,
        ) as answer:
            status_code, pause = answer.status, _seconds(answer.headers.get("retry-after", ""))
            for chunk in answer.chunks():
                excerpt += chunk
                if len(excerpt) >= _EXCERPT_BYTES:
                    break
    except (EgressFailed, EgressRefused) as failure:
        error = failure.message if status_code is None else None
    return Answer(status_code, error, round(1000 * (time.monotonic() - started), 1), excerpt.decode(errors="replace")[:500], pause)


def track(service: Service, attempt: Attempt, stopped: Callable[[], bool]) -> Answer:
    """One attempt to write the job that a message is about to an MLflow server; a test message makes the experiment."""
    assert attempt.mlflow is not None
    started = time.monotonic()
    seconds = deliveries.MLFLOW_LEASES * service.settings.webhook_lease_seconds - _MARGIN_SECONDS
    rest = Rest(Server(attempt.url, attempt.credentials), service.settings.egress, seconds=seconds, stopped=stopped)
    status_code: int | None = 200
    error, excerpt = None, ""
    try:
        if attempt.job_id is None:
            runs.check(rest, attempt.mlflow)
        else:
            with service.database.reader() as session:
                told = story.read(session, attempt.project_id, attempt.job_id)
            excerpt = f"run {runs.write(rest, attempt.mlflow, told, service.blobs)}"
    except ServiceError as failure:
        status_code, error = getattr(failure, "status_code", None), failure.message
    return Answer(status_code, error, round(1000 * (time.monotonic() - started), 1), excerpt)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0.0
