"""Webhooks and their deliveries, as `core.webhooks` renders them."""

from datetime import datetime
from typing import Any, Literal

from modelpress.resources.common import Resource

EventType = Literal["job.created", "job.started", "job.succeeded", "job.failed", "job.cancelled"]


class Webhook(Resource):
    """An address that a project's news go to."""

    object: Literal["webhook"]
    id: str
    url: str
    description: str | None
    events: list[str]
    enabled: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    previous_secret_until: datetime | None
    """So long messages are signed with the former secret as well."""
    created_at: datetime
    urls: dict[str, str]


class WebhookWithSecret(Webhook):
    """The same with its secret, which is shown this once."""

    secret: str
    """What messages are signed with, and verified: see https://www.standardwebhooks.com."""


class Delivery(Resource):
    """One message to one address."""

    object: Literal["webhook_delivery"]
    id: str
    webhook_id: str
    message_id: str
    """The header `webhook-id` of every attempt: a receiver that has seen it needs to do nothing."""
    type: str
    job_id: str | None
    status: Literal["pending", "delivered", "failed"]
    attempts_count: int
    next_attempt_at: datetime | None
    last_status_code: int | None
    last_error: str | None
    payload: dict[str, Any]
    created_at: datetime
    delivered_at: datetime | None
    urls: dict[str, str]


class DeliveryAttempt(Resource):
    """One try."""

    number: int
    status_code: int | None
    error: str | None
    duration_ms: float
    answer: str | None
    """The beginning of what the other side answered."""
    created_at: datetime


class DeliveryWithAttempts(Delivery):
    """The same with its attempts, oldest first; of many, the latest hundred."""

    attempts: list[DeliveryAttempt]
