"""I7: every event of a job comes to whoever asked for it, at least once, under one id, and never before it happened."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import func, select

from core.database.db import Database
from core.database.tables import JobEvent, WebhookDelivery
from core.webhooks import outbox
from modelpress.resources import signatures
from tests.faults.house import House
from tests.listening import Listening, Quiet

EVENTS = list(outbox.TYPES)


class Receiver:
    """An address on loopback; says what came, and what was wrong with it."""

    def __init__(self, house: House) -> None:
        self.bodies: dict[str, set[bytes]] = defaultdict(set)
        """By message id; one id has one body."""
        self.count = 0
        self.wrong: list[str] = []
        self.secret = ""
        self._database = Database(house.settings)
        self._lock = threading.Lock()
        outer = self

        class Handler(Quiet):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.take(dict(self.headers), body)
                self.send_response(204)
                self.end_headers()

        self._listening = Listening(Handler)
        self.url = f"{self._listening.url}/hook"

    def take(self, headers: dict[str, str], body: bytes) -> None:
        """One attempt: signed, and of something that is in the database already."""
        message_id = signatures.verify(self.secret, headers, body) if self.secret else "unsigned"
        job_id, seq = f"job_{message_id[4:-8]}", int(message_id[-8:])
        with self._database.reader() as session:
            happened = session.scalar(select(JobEvent.type).where(JobEvent.job_id == job_id, JobEvent.seq == seq))
        with self._lock:
            self.count += 1
            self.bodies[message_id].add(body)
            if f'"type":"job.{happened}"'.encode() not in body.replace(b": ", b":"):
                self.wrong.append(f"{message_id} came and tells {body[:80]!r}, the database says {happened}")

    def close(self) -> None:
        """Stop listening."""
        self._listening.close()
        self._database.close()


@contextmanager
def listening(house: House) -> Iterator[tuple[Receiver, dict[str, Any]]]:
    """A receiver, and the webhook that names it; both are gone afterwards."""
    receiver = Receiver(house)
    webhook = house.client.json("POST", "/v1/webhooks", {"url": receiver.url, "events": EVENTS})
    receiver.secret = webhook["secret"]
    try:
        yield receiver, webhook
    finally:
        house.wait_until_whole()
        house.client.json("DELETE", webhook["urls"]["self"])
        receiver.close()


def webhook_kills(house: House, rng: random.Random, *, jobs: int, kills: int) -> tuple[int, list[str]]:
    """Kill API and worker at random moments while `jobs` jobs begin and end; returns the kills and the broken promises."""
    with listening(house) as (receiver, webhook):
        submitted: list[str] = []
        killed = 0
        while killed < kills or len(submitted) < jobs:
            running = [job_id for job_id in submitted[-4:] if not house.has_ended(job_id)]
            if len(submitted) < jobs and len(running) < 4:
                key = f"w{rng.getrandbits(64)}"
                submitted.append(house.submit(rng.randrange(1, 60), key=key, patient=True, max_attempts=10))
            time.sleep(rng.uniform(0.0, 0.4))
            if killed < kills and (victims := house.pids(rng.choice(["api", "worker"]))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    killed += 1
        for job_id in submitted:
            house.end(job_id, 120)
        house.wait_until_whole()
        found = house.broken_promises(load_artifacts=False, grace_seconds=10)
        house.until(lambda: _nothing_waits(house), "messages wait for ever", 60)
        return killed, found + receiver.wrong + list(_missing(house, receiver, webhook, submitted))


def _nothing_waits(house: House) -> bool:
    database = Database(house.settings)
    try:
        with database.reader() as session:
            return session.scalar(select(func.count()).where(WebhookDelivery.status == "pending")) == 0
    finally:
        database.close()


def _missing(house: House, receiver: Receiver, webhook: dict[str, Any], submitted: list[str]) -> Iterator[str]:
    ids = []
    for job_id in submitted:
        ids += [
            f"msg_{job_id.removeprefix('job_')}{event['seq']:08d}"
            for event in house.events(job_id)
            if f"job.{event['type']}" in webhook["events"]
        ]
    for message_id in ids:
        bodies = receiver.bodies.get(message_id, set())
        if len(bodies) != 1:
            yield f"I7 {message_id} came with {len(bodies)} bodies"
    if extra := set(receiver.bodies) - set(ids):
        yield f"I7 nobody knows {sorted(extra)[:3]}"


def webhooks_come_through_kills(house: House) -> None:
    """A few jobs end while API and worker are killed; their news come all the same."""
    killed, found = webhook_kills(house, random.Random(5), jobs=5, kills=4)
    assert (killed, found) == (4, [])
