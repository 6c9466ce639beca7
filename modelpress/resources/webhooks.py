"""Webhooks and their deliveries, as `core.webhooks` renders them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from modelpress.resources.common import Resource

EventType = Literal["job.created", "job.started", "job.succeeded", "job.failed", "job.cancelled"]


ENDINGS: tuple[EventType, ...] = ("job.succeeded", "job.failed", "job.cancelled")
"""How jobs end: what an MLflow server is told, and what an address hears of unless it wants otherwise."""
MLFLOW_LABEL = "mlflow"
"""A job with this label is written as a run (`on`), or not (`off`), whatever `jobs` says of the others."""


class MlflowTracker(Resource):
    """What an MLflow server keeps of jobs."""

    experiment: str = Field("modelpress", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    """Where runs go; made where it is missing."""
    registered_model: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f/:]*$")
    """Of which results become versions; null: named like the model that was compressed."""
    jobs: Literal["all", "labelled"] = "all"
    """`all`: every job without the label `mlflow: off`. `labelled`: those with `mlflow: on`."""

    def wants(self, labels: Mapping[str, str]) -> bool:
        """Whether a job with these labels is written there."""
        return labels.get(MLFLOW_LABEL, "off" if self.jobs == "labelled" else "on") != "off"


class Webhook(Resource):
    """An address that a project's news go to."""

    object: Literal["webhook"]
    id: str
    url: str
    description: str | None
    events: list[str]
    enabled: bool
    mlflow: MlflowTracker | None = None
    """Of an MLflow server: how jobs are written there. Null for an address that signed messages are posted to."""
    disabled_at: datetime | None
    disabled_reason: str | None
    previous_secret_until: datetime | None
    """So long messages are signed with the former secret as well."""
    created_at: datetime
    urls: dict[str, str]


class WebhookWithSecret(Webhook):
    """The same with its secret, which is shown this once."""

    secret: str
    """What messages are signed with, and verified: see https://www.standardwebhooks.com. Nothing that an MLflow server gets is signed."""


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
