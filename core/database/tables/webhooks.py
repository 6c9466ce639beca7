"""Addresses that a project's news go to, what is sent there, and how that went."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Base, Id, JsonList, JsonObject, created

_PENDING = text("status = 'pending'")


class Webhook(Base):
    """One address."""

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "project_id", "id"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    url: Mapped[str] = mapped_column(String(2048))
    description: Mapped[str | None] = mapped_column(String(200))
    events: Mapped[JsonList]
    """Types of events that go there."""
    secret: Mapped[str] = mapped_column(String(100))
    """As it is: signing needs it."""
    previous_secret: Mapped[str | None] = mapped_column(String(100))
    previous_until: Mapped[datetime | None]
    """So long messages are signed with both."""
    mlflow: Mapped[JsonObject | None]
    """Of an MLflow server: what `core.mlflow.tracker.Tracker` holds, but for its credentials; None for one that messages are posted to."""
    credentials: Mapped[str | None] = mapped_column(String(4096))
    """What an MLflow server asks for; as they are, and never shown."""
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime] = created()


class WebhookDelivery(Base):
    """One message to one address, written in the transaction of what it tells."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("status IN ('pending','delivered','failed')", name="status"),
        Index("ix_webhook_deliveries_due", "next_attempt_at", "webhook_id", postgresql_where=_PENDING, sqlite_where=_PENDING),
        Index(None, "webhook_id", "id"),
        Index(None, "created_at"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(Id, ForeignKey("webhooks.id", ondelete="CASCADE"))
    message_id: Mapped[str] = mapped_column(String(64))
    """Names what happened: the same for every attempt, and for every address."""
    type: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(Id)
    body: Mapped[str]
    """What is sent, byte for byte; for an MLflow server, what its run is about."""
    status: Mapped[str] = mapped_column(String(16))
    attempts_count: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts ever; the fence of the one that is under way."""
    round: Mapped[int] = mapped_column(server_default=text("0"))
    """Attempts since it was asked for last: the place in the schedule."""
    next_attempt_at: Mapped[datetime]
    """Not before; while an attempt is under way, when it counts as lost."""
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[datetime] = created()
    delivered_at: Mapped[datetime | None]


class WebhookAttempt(Base):
    """One try to deliver a message."""

    __tablename__ = "webhook_attempts"
    delivery_id: Mapped[str] = mapped_column(Id, ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    status_code: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(String(300))
    duration_ms: Mapped[float]
    answer: Mapped[str | None] = mapped_column(String(500))
    """The beginning of what the other side answered."""
    created_at: Mapped[datetime] = created()
