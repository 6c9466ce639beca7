"""News are written with what they tell, claimed by one, tried for a day, and never lost to a death. On each database."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core import jobs
from core.database.clock import db_now
from core.database.tables import Webhook, WebhookAttempt, WebhookDelivery
from core.errors import NotFound, QuotaExceeded, WebhookDisabled
from core.webhooks import deliveries, endpoints, outbox
from core.webhooks.deliveries import Answer, Attempt
from tests.core.conftest import World

OK = Answer(200, None, 1.0, "thanks")
BROKEN = Answer(500, None, 1.0, "oh\x00no")
SILENT = Answer(None, "the other server does not answer", 1.0)


def webhook(world: World, *events: str, url: str = "https://hooks.example/x") -> Webhook:
    """An address that wants these events; all of them where none is named."""
    with world.service.database.unit_of_work() as session:
        return endpoints.create(session, world.service.settings, world.project_id, url=url, events=events or outbox.TYPES)


def told(world: World) -> list[tuple[str, str | None]]:
    """What was written, oldest first: type and job."""
    with world.service.database.reader() as session:
        return [(row.type, row.job_id) for row in session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id))]


def claim(world: World, most: int = 100, busy: dict[str, int] | None = None, **options: Any) -> list[Attempt]:
    with world.service.database.unit_of_work() as session:
        return deliveries.claim(session, most, busy or {}, **options)


def settle(world: World, attempt: Attempt, answer: Answer) -> str | None:
    with world.service.database.unit_of_work() as session:
        return deliveries.settle(session, attempt, answer)


def make_due(world: World) -> None:
    """Let time pass."""
    with world.service.database.unit_of_work() as session:
        session.execute(update(WebhookDelivery).values(next_attempt_at=db_now(-1)))


def test_every_turn_of_a_job_is_told_once(world: World) -> None:
    webhook(world)
    first = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.finish(session, first.job_id, first.fence, outcome="no_constraints", result={})
    second = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.fail(session, second.job_id, second.fence, jobs.JobError.of("bad", "user", "x" * 5000))
    third = world.submit()
    with world.service.database.unit_of_work() as session:
        jobs.cancel(session, world.project_id, third.id)
        jobs.cancel(session, world.project_id, third.id)
    assert told(world) == [
        ("job.created", first.job_id),
        ("job.started", first.job_id),
        ("job.succeeded", first.job_id),
        ("job.created", second.job_id),
        ("job.started", second.job_id),
        ("job.failed", second.job_id),
        ("job.created", third.id),
        ("job.cancelled", third.id),
    ]
    bodies = [json.loads(attempt.body) for attempt in claim(world, busy={})]
    assert bodies[0]["data"]["id"] == first.job_id
    with world.service.database.reader() as session:
        texts = list(session.scalars(select(WebhookDelivery.body).order_by(WebhookDelivery.id)))
    assert max(map(len, texts)) < 20_000
    failed = json.loads(texts[5])
    assert (failed["type"], failed["data"]["status"], failed["data"]["error"]["code"]) == ("job.failed", "failed", "bad")
    assert json.loads(texts[2])["data"]["outcome"] == "no_constraints"


def test_an_attempt_that_is_lost_is_told_as_started_again(world: World) -> None:
    """Each lease is an event of its own, with an id of its own."""
    webhook(world, "job.started")
    lost = world.running()
    with world.service.database.unit_of_work() as session:
        jobs.release(session, lost.job_id, lost.fence)
    assert world.claim() is not None
    with world.service.database.reader() as session:
        ids = list(session.scalars(select(WebhookDelivery.message_id)))
    assert len(ids) == len(set(ids)) == 2


def test_what_is_rolled_back_is_told_to_nobody(world: World) -> None:
    webhook(world)

    class Undone(Exception):
        pass

    def undone() -> None:
        with world.service.database.unit_of_work() as session:
            jobs.create(session, world.service.settings, world.project_id, world.spec())
            raise Undone

    with pytest.raises(Undone):
        undone()
    assert told(world) == []


def test_only_what_is_wanted_goes_only_to_its_project(world: World, another_world: Callable[[str], World]) -> None:
    other = another_world("other")
    webhook(world, "job.succeeded")
    theirs = webhook(other, "job.created")
    world.submit()
    assert told(world) == []
    other.submit()
    with world.service.database.unit_of_work() as session:
        endpoints.change(session, world.service.settings, other.project_id, theirs.id, {"enabled": False})
    other.submit()
    assert [kind for kind, _ in told(world)] == ["job.created"]
    with world.service.database.unit_of_work() as session:
        for act in (endpoints.get, endpoints.delete, endpoints.rotate, endpoints.ping):
            with pytest.raises(NotFound):
                act(session, world.project_id, theirs.id)


def test_a_committed_message_rings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[str] = []
    monkeypatch.setattr(world.service.database, "doorbell", rung.append)
    world.submit()
    assert outbox.BELL not in rung
    webhook(world)
    world.submit()
    assert rung.count(outbox.BELL) == 1


def test_two_senders_take_each_message_once(world: World) -> None:
    """And one whose sender died is taken again, under the same id, when its lease has run out; the dead one's word counts no more."""
    webhook(world, "job.created")
    world.submit()
    (first,) = claim(world)
    assert claim(world) == []
    make_due(world)
    (second,) = claim(world)
    assert (second.message_id, second.body, second.number) == (first.message_id, first.body, first.number + 1)
    assert settle(world, first, OK) is None
    assert settle(world, second, OK) == "delivered"
    assert settle(world, second, BROKEN) is None
    make_due(world)
    assert claim(world) == []


def test_a_lease_is_as_long_as_it_is_asked_to_be(world: World) -> None:
    webhook(world, "job.created")
    world.submit()
    (first,) = claim(world, lease_seconds=-1)
    (again,) = claim(world, lease_seconds=60)
    assert (again.number, claim(world)) == (first.number + 1, [])


@pytest.mark.parametrize("answer", [BROKEN, SILENT, Answer(301, None, 1.0), Answer(404, None, 1.0)])
def test_it_is_tried_for_a_day_with_growing_pauses(world: World, answer: Answer) -> None:
    hook = webhook(world, "job.created")
    world.submit()
    pauses = []
    while attempts := claim(world):
        (attempt,) = attempts
        status = settle(world, attempt, answer)
        with world.service.database.reader() as session:
            row = session.execute(select(WebhookDelivery.next_attempt_at, db_now())).one()
        if status == "failed":
            break
        pauses.append((row[0] - row[1]).total_seconds())
        make_due(world)
    assert len(pauses) == len(deliveries.PAUSES_SECONDS)
    assert all(0.85 * wanted < pause < 1.15 * wanted for pause, wanted in zip(pauses, deliveries.PAUSES_SECONDS, strict=True))
    assert 0.9 * 86_400 < sum(deliveries.PAUSES_SECONDS) <= 86_400
    make_due(world)
    assert claim(world) == []
    with world.service.database.reader() as session:
        tried = deliveries.attempts(session, attempt.delivery_id)
        delivery = deliveries.get(session, world.project_id, hook.id, attempt.delivery_id)
        assert deliveries.body(delivery)["last_status_code"] == answer.status_code
    assert [item.number for item in tried] == list(range(1, len(pauses) + 2))
    assert {item.status_code for item in tried} == {answer.status_code}


def test_a_busy_receiver_is_heeded(world: World) -> None:
    webhook(world, "job.created")
    world.submit()
    (attempt,) = claim(world)
    settle(world, attempt, Answer(429, None, 1.0, retry_after_seconds=3000))
    with world.service.database.reader() as session:
        row = session.execute(select(WebhookDelivery.next_attempt_at, db_now())).one()
    assert 2600 < (row[0] - row[1]).total_seconds() < 3400


def test_410_ends_it_for_the_address(world: World) -> None:
    """Nothing more goes there, neither what waits nor what comes, until somebody enables it again."""
    hook = webhook(world, "job.created")
    for _ in range(4):
        world.submit()
    first, other = claim(world)
    assert settle(world, first, Answer(410, None, 1.0)) == "failed"
    assert settle(world, other, OK) is None
    world.submit()
    make_due(world)
    assert claim(world) == []
    with world.service.database.unit_of_work() as session:
        shown = endpoints.body(endpoints.get(session, world.project_id, hook.id))
        assert (shown["enabled"], shown["disabled_reason"]) == (False, "it answered 410 Gone")
        with pytest.raises(WebhookDisabled):
            endpoints.ping(session, world.project_id, hook.id)
        with pytest.raises(WebhookDisabled):
            deliveries.redeliver(session, world.project_id, hook.id, first.delivery_id)
        endpoints.change(session, world.service.settings, world.project_id, hook.id, {"enabled": True})
    world.submit()
    assert len(claim(world)) == 1


def test_a_message_is_sent_again_when_it_is_asked_for(world: World) -> None:
    hook = webhook(world, "job.created")
    world.submit()
    (first,) = claim(world)
    settle(world, first, OK)
    with world.service.database.unit_of_work() as session:
        deliveries.redeliver(session, world.project_id, hook.id, first.delivery_id)
    (second,) = claim(world)
    assert (second.message_id, second.number) == (first.message_id, 2)
    assert settle(world, second, BROKEN) == "pending"


def test_a_slow_address_keeps_no_other_waiting(world: World) -> None:
    slow, quick = webhook(world, "job.created"), webhook(world, "job.started")
    for _ in range(10):
        world.submit()
    world.claim()
    taken = claim(world, most=8)
    assert [attempt.webhook_id for attempt in taken].count(slow.id) == deliveries.MOST_AT_ONCE
    assert [attempt.webhook_id for attempt in taken].count(quick.id) == 1
    assert claim(world, busy={slow.id: deliveries.MOST_AT_ONCE}) == []
    assert len(claim(world, busy={slow.id: 1})) == 1


def test_for_a_day_both_secrets_sign(world: World) -> None:
    hook = webhook(world, "job.created")
    before = hook.secret
    with world.service.database.unit_of_work() as session:
        after = endpoints.rotate(session, world.project_id, hook.id).secret
    assert before != after
    world.submit()
    (attempt,) = claim(world)
    assert attempt.secrets == (after, before)
    settle(world, attempt, BROKEN)
    make_due(world)
    with world.service.database.unit_of_work() as session:
        session.execute(update(Webhook).values(previous_until=db_now(-1)))
    (later,) = claim(world)
    assert later.secrets == (after,)


def test_numbers_are_bounded_and_old_deliveries_forgotten(world: World) -> None:
    for _ in range(endpoints.MOST_WEBHOOKS):
        webhook(world, "job.created")
    with pytest.raises(QuotaExceeded):
        webhook(world)
    world.submit()
    for attempt in claim(world):
        settle(world, attempt, BROKEN)
    with world.service.database.unit_of_work() as session:
        old = select(WebhookDelivery.id).limit(5)
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(old.scalar_subquery()))
            .values(created_at=db_now(-deliveries.KEPT_SECONDS - 1))
        )
    with world.service.database.unit_of_work() as session:
        assert deliveries.expire(session) == 5
    with world.service.database.unit_of_work() as session:
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == endpoints.MOST_WEBHOOKS - 5
        for hook in endpoints.search(session, world.project_id, limit=100, after=None).data:
            endpoints.delete(session, world.project_id, hook.id)
        session.flush()
        assert session.scalar(select(func.count()).select_from(WebhookDelivery)) == 0
        assert session.scalar(select(func.count()).select_from(WebhookAttempt)) == 0
