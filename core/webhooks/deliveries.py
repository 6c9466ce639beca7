"""Deliveries: at least once, under one id, for a day; claimed by whoever sends, so that a dead sender loses none."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.database import db
from core.database.clock import db_now, now, timestamp
from core.database.paging import Cut, Page, page
from core.database.serialization import clean
from core.database.tables import Webhook, WebhookAttempt, WebhookDelivery
from core.errors import NotFound
from core.webhooks import endpoints, outbox
from modelpress.resources.webhooks import MlflowTracker

PAUSES_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 21_600, 36_000)
"""Between an attempt and the next one: a day in all. After the last one the delivery has failed."""
MOST_AT_ONCE = 2
"""Attempts of one address at a time: a slow one keeps no other waiting."""
MLFLOW_LEASES = 10
"""An attempt at an MLflow server, which sends files, may take so many times as long as a message."""
KEPT_SECONDS = 30 * 86_400.0
_GONE = 410
_MOST_PAUSE_SECONDS = 36_000.0


@dataclass(frozen=True)
class Attempt:
    """What to send where; `number` is the fence of whoever sends it."""

    delivery_id: str
    webhook_id: str
    number: int
    message_id: str
    url: str
    secrets: tuple[str, ...]
    body: bytes
    project_id: str
    job_id: str | None
    mlflow: MlflowTracker | None = None
    """Of an MLflow server: how the job is written there, instead of posting `body`."""
    credentials: str | None = None


@dataclass(frozen=True)
class Answer:
    """How an attempt went."""

    status_code: int | None
    error: str | None
    duration_ms: float
    excerpt: str = ""
    retry_after_seconds: float = 0

    @property
    def delivered(self) -> bool:
        """Whether the other side took the message."""
        return self.status_code is not None and 200 <= self.status_code < 300


def due(session: Session) -> bool:
    """Whether anything waits to be sent now."""
    waiting = select(WebhookDelivery.id).where(WebhookDelivery.status == "pending", WebhookDelivery.next_attempt_at <= db_now()).limit(1)
    return session.scalar(waiting) is not None


def claim(session: Session, most: int, busy: Mapping[str, int], *, lease_seconds: float = 60) -> list[Attempt]:
    """Take up to `most` attempts that are due; `busy` says how many of each address the caller has under way.

    The addresses that have waited longest come first, each with few at a time. The caller commits at once: the lease runs from now on.
    """
    waiting = (WebhookDelivery.status == "pending", WebhookDelivery.next_attempt_at <= db_now())
    full = [webhook_id for webhook_id, count in busy.items() if count >= MOST_AT_ONCE]
    longest = func.min(WebhookDelivery.next_attempt_at)
    addresses = select(WebhookDelivery.webhook_id).where(*waiting, WebhookDelivery.webhook_id.not_in(full))
    taken: list[Attempt] = []
    for webhook_id in session.scalars(addresses.group_by(WebhookDelivery.webhook_id).order_by(longest).limit(most)).all():
        room = min(MOST_AT_ONCE - busy.get(webhook_id, 0), most - len(taken))
        if room <= 0:
            break
        chosen = select(WebhookDelivery.id).where(*waiting, WebhookDelivery.webhook_id == webhook_id)
        chosen = chosen.order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id).limit(room).with_for_update(skip_locked=True)
        webhook = session.get_one(Webhook, webhook_id)
        mlflow = endpoints.mlflow_of(webhook)
        # Chosen and locked first: within the update PostgreSQL may choose anew for each row.
        locked = session.scalars(chosen).all()
        statement = (
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(locked), *waiting)
            .values(
                attempts_count=WebhookDelivery.attempts_count + 1,
                round=WebhookDelivery.round + 1,
                next_attempt_at=db_now(lease_seconds * (MLFLOW_LEASES if mlflow else 1)),
            )
            .returning(
                WebhookDelivery.id,
                WebhookDelivery.attempts_count,
                WebhookDelivery.message_id,
                WebhookDelivery.body,
                WebhookDelivery.job_id,
            )
        )
        rows = session.execute(statement, execution_options={"synchronize_session": False}).all()
        if rows:
            signed_with = _secrets(session, webhook)
            taken += [
                Attempt(
                    delivery_id=row.id,
                    webhook_id=webhook_id,
                    number=row.attempts_count,
                    message_id=row.message_id,
                    url=webhook.url,
                    secrets=signed_with,
                    body=row.body.encode(),
                    project_id=webhook.project_id,
                    job_id=row.job_id,
                    mlflow=mlflow,
                    credentials=webhook.credentials,
                )
                for row in rows
            ]
    return taken


def _secrets(session: Session, webhook: Webhook) -> tuple[str, ...]:
    if webhook.previous_secret is None or webhook.previous_until is None or webhook.previous_until <= now(session):
        return (webhook.secret,)
    return (webhook.secret, webhook.previous_secret)


def settle(session: Session, attempt: Attempt, answer: Answer) -> str | None:
    """Write down how an attempt went, and what follows: delivered, tried again, or given up; 410 disables the address.

    Returns the status; None where another attempt has the delivery by now, or it is gone.
    """
    mine = (
        WebhookDelivery.id == attempt.delivery_id,
        WebhookDelivery.attempts_count == attempt.number,
        WebhookDelivery.status == "pending",
    )
    place = session.scalar(select(WebhookDelivery.round).where(*mine).with_for_update())
    if place is None:
        return None
    values: dict[str, Any] = {"last_status_code": answer.status_code, "last_error": answer.error and clean(answer.error)[:300]}
    if answer.delivered:
        values |= {"status": "delivered", "delivered_at": db_now()}
    elif answer.status_code == _GONE or place > len(PAUSES_SECONDS):
        values |= {"status": "failed"}
    else:
        pause = max(PAUSES_SECONDS[place - 1], min(answer.retry_after_seconds, _MOST_PAUSE_SECONDS))
        spread = random.uniform(0.9, 1.1)  # noqa: S311 - spreads attempts, hides nothing
        values |= {"status": "pending", "next_attempt_at": db_now(pause * spread)}
    session.execute(update(WebhookDelivery).where(*mine).values(**values))
    session.add(
        WebhookAttempt(
            delivery_id=attempt.delivery_id,
            number=attempt.number,
            status_code=answer.status_code,
            error=values["last_error"],
            duration_ms=answer.duration_ms,
            answer=clean(answer.excerpt)[:500] or None,
        )
    )
    if answer.status_code == _GONE:
        _disable(session, attempt.webhook_id)
    return str(values["status"])


def _disable(session: Session, webhook_id: str) -> None:
    """The other side does not want to hear any more: neither of what waits."""
    reason = "it answered 410 Gone"
    session.execute(
        update(Webhook).where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None)).values(disabled_at=db_now(), disabled_reason=reason)
    )
    waiting = (WebhookDelivery.webhook_id == webhook_id, WebhookDelivery.status == "pending")
    session.execute(update(WebhookDelivery).where(*waiting).values(status="failed", last_error="the webhook was disabled"))


def redeliver(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Send a message again, under its id, with a schedule of its own. Raises `not_found` and `webhook_disabled`."""
    endpoints.require_enabled(endpoints.get(session, project_id, webhook_id))
    delivery = get(session, project_id, webhook_id, delivery_id)
    values = {"status": "pending", "round": 0, "next_attempt_at": db_now(), "delivered_at": None}
    session.execute(update(WebhookDelivery).where(WebhookDelivery.id == delivery.id).values(**values))
    db.ring(session, outbox.BELL)
    session.refresh(delivery)
    return delivery


def get(session: Session, project_id: str, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """One delivery of an address of the project. Raises `not_found`."""
    endpoints.get(session, project_id, webhook_id)
    statement = select(WebhookDelivery).where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook_id)
    row = session.scalars(statement).one_or_none()
    if row is None:
        raise NotFound(f"there is no delivery {delivery_id!r} of this webhook", hint="deliveries are kept for thirty days")
    return row


def attempts(session: Session, delivery_id: str) -> list[WebhookAttempt]:
    """The latest attempts of a delivery, oldest first."""
    statement = select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id).order_by(WebhookAttempt.number.desc()).limit(100)
    return list(session.scalars(statement))[::-1]


def search(
    session: Session, project_id: str, webhook_id: str, *, status: str | None, limit: int, after: str | None
) -> Page[WebhookDelivery]:
    """Deliveries of an address, newest first. Raises `not_found`."""
    endpoints.get(session, project_id, webhook_id)
    statement = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
    if status is not None:
        statement = statement.where(WebhookDelivery.status == status)
    return page(session, statement, WebhookDelivery.id, Cut(limit, after, [WebhookDelivery.body]))


def expire(session: Session) -> int:
    """Forget deliveries of more than thirty days ago; returns how many."""
    old = select(WebhookDelivery.id).where(WebhookDelivery.created_at < db_now(-KEPT_SECONDS)).limit(1000)
    removed = delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.scalar_subquery())).returning(WebhookDelivery.id)
    return len(session.scalars(removed).all())


def body(delivery: WebhookDelivery) -> dict[str, Any]:
    """The delivery object of the public contract."""
    path = f"/v1/webhooks/{delivery.webhook_id}/deliveries/{delivery.id}"
    return {
        "object": "webhook_delivery",
        "id": delivery.id,
        "webhook_id": delivery.webhook_id,
        "message_id": delivery.message_id,
        "type": delivery.type,
        "job_id": delivery.job_id,
        "status": delivery.status,
        "attempts_count": delivery.attempts_count,
        "next_attempt_at": timestamp(delivery.next_attempt_at) if delivery.status == "pending" else None,
        "last_status_code": delivery.last_status_code,
        "last_error": delivery.last_error,
        "payload": json.loads(delivery.body),
        "created_at": timestamp(delivery.created_at),
        "delivered_at": timestamp(delivery.delivered_at),
        "urls": {"self": path, "redeliver": f"{path}/redeliver"},
    }


def attempt_body(attempt: WebhookAttempt) -> dict[str, Any]:
    """One attempt."""
    return {
        "number": attempt.number,
        "status_code": attempt.status_code,
        "error": attempt.error,
        "duration_ms": attempt.duration_ms,
        "answer": attempt.answer,
        "created_at": timestamp(attempt.created_at),
    }
