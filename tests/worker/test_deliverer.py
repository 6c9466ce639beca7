"""What goes out is signed, bounded and never redirected; a sender that is stopped or dies loses nothing."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from core.access import projects
from core.database.tables import WebhookDelivery
from core.service import Service
from core.webhooks import endpoints
from modelpress.resources import signatures
from modelpress.resources.signatures import InvalidSignature
from tests.listening import Listening, Quiet
from tests.servers import wait_until
from tests.worker.delivering import LOOPBACK, delivering
from worker.deliverer import Deliverer


class Receiver:
    """An address on loopback that answers by its path."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.failures = 0
        self.stop = threading.Event()
        outer = self

        class Handler(Quiet):
            def do_POST(self) -> None:
                outer.got.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                if self.path == "/slow":
                    outer.stop.wait(20)
                outer.failures -= 1
                status = {"/moved": 302, "/gone": 410}.get(self.path, 500 if outer.failures >= 0 else 200)
                self.send_response(status)
                self.send_header("Location", "/other")
                content = b"y" * (200_000 if self.path == "/long" else 20)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._listening = Listening(Handler)
        self.url = self._listening.url

    def close(self) -> None:
        self.stop.set()
        self._listening.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


class Sender:
    """A service with one project and a deliverer."""

    def __init__(self, service: Service, deliverer: Deliverer) -> None:
        self.service, self.deliverer = service, deliverer
        with service.database.reader() as session:
            self.project_id = projects.default(session).id

    def ping(self, url: str) -> tuple[str, str]:
        """Have a test message sent there; returns the delivery's id and the secret."""
        with self.service.database.unit_of_work() as session:
            webhook = endpoints.create(session, self.service.settings, self.project_id, url=url, events=["job.created"])
            return endpoints.ping(session, self.project_id, webhook.id).id, webhook.secret

    def state(self, delivery_id: str) -> WebhookDelivery:
        with self.service.database.reader() as session:
            return session.scalars(select(WebhookDelivery).where(WebhookDelivery.id == delivery_id)).one()

    def until(self, delivery_id: str, done: Callable[[WebhookDelivery], bool]) -> WebhookDelivery:
        wait_until(lambda: done(self.state(delivery_id)), 20)
        return self.state(delivery_id)


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    with delivering(tmp_path, join_seconds=20, webhook_lease_seconds=1, **LOOPBACK) as (service, deliverer):
        yield Sender(service, deliverer)


def test_a_message_arrives_signed(sender: Sender, receiver: Receiver) -> None:
    delivery_id, secret = sender.ping(f"{receiver.url}/x")
    delivered = sender.until(delivery_id, lambda row: row.status == "delivered")
    ((_, headers, body),) = receiver.got
    assert signatures.verify(secret, headers, body) == delivered.message_id
    assert json.loads(body)["type"] == "webhook.test"
    assert headers["Content-Type"] == "application/json"
    for wrong in (
        (signatures.new_secret(), headers, body),
        (secret, headers, body + b" "),
        (secret, {**headers, "webhook-id": "msg_other"}, body),
        (secret, {**headers, "webhook-timestamp": str(int(time.time()) - 301)}, body),
        (secret, {**headers, "webhook-timestamp": "²"}, body),
        (secret, {**headers, "webhook-signature": ""}, body),
        (secret, {}, body),
    ):
        with pytest.raises(InvalidSignature):
            signatures.verify(*wrong)


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of the reference libraries."""
    signed = signatures.signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert len({signatures.new_secret() for _ in range(100)}) == 100


@pytest.mark.parametrize(("path", "code"), [("/moved", 302), ("/gone", 410), ("/long", 200)])
def test_answers_of_every_kind(sender: Sender, receiver: Receiver, path: str, code: int) -> None:
    """A redirect is no success, and is not followed; a long answer is one all the same, and is not read to its end."""
    delivery_id, _ = sender.ping(receiver.url + path)
    row = sender.until(delivery_id, lambda row: row.last_status_code is not None)
    assert (row.last_status_code, row.status) == (code, {302: "pending", 410: "failed", 200: "delivered"}[code])
    assert [got[0] for got in receiver.got] == [path]


def test_addresses_inside_are_not_reached(tmp_path: Path, receiver: Receiver) -> None:
    """Nor is anything told about them."""
    with delivering(tmp_path, join_seconds=20) as (service, deliverer):
        sender = Sender(service, deliverer)
        delivery_id, _ = sender.ping("https://127.0.0.1:8443/x")
        row = sender.until(delivery_id, lambda row: row.last_error is not None)
    assert row.last_error == "'127.0.0.1' is not a public address that this service connects to"
    assert receiver.got == []


def test_a_slow_address_delays_no_other(sender: Sender, receiver: Receiver) -> None:
    for _ in range(3):
        sender.ping(f"{receiver.url}/slow")
    started = time.monotonic()
    delivery_id, _ = sender.ping(f"{receiver.url}/x")
    sender.until(delivery_id, lambda row: row.status == "delivered")
    assert time.monotonic() - started < 5
    receiver.stop.set()


def test_what_a_dead_sender_had_taken_is_sent_by_another(sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt is never written down: the same message goes out again when its lease has run out."""
    from core import failpoints

    monkeypatch.setattr(failpoints, "_points", failpoints.parse("deliver.after_send:error@1"))
    delivery_id, secret = sender.ping(f"{receiver.url}/x")
    row = sender.until(delivery_id, lambda row: row.status == "delivered")
    assert row.attempts_count == 2
    assert {signatures.verify(secret, headers, body) for _, headers, body in receiver.got} == {row.message_id}
    assert len(receiver.got) == 2
