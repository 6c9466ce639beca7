"""Projects, keys, and what counts against a project: turns, compute, idempotency keys."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import Base, Id, JsonList, created


class Project(Base):
    """Everything belongs to one project; projects see nothing of each other. Empty quotas mean no limit."""

    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    max_queued_jobs: Mapped[int | None]
    max_running_jobs: Mapped[int | None]
    max_stored_bytes: Mapped[int | None]
    max_models: Mapped[int | None]
    max_compute_seconds: Mapped[float | None]
    created_at: Mapped[datetime] = created()


class ApiKey(Base):
    """One API key; only the SHA-256 of its secret is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[JsonList]
    created_at: Mapped[datetime] = created()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class WebSession(Base):
    """A browser that showed a key, until it logs out; only the SHA-256 of its secret is kept."""

    __tablename__ = "web_sessions"
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(Id, ForeignKey("api_keys.id"), index=True)
    created_at: Mapped[datetime] = created()
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Turn(Base):
    """When a project's job was last taken from a queue: who was served longest ago is next."""

    __tablename__ = "turns"
    queue: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), primary_key=True)
    served_at: Mapped[datetime]


class LedgerEntry(Base):
    """What one attempt used: one row for a job and a fence, never two."""

    __tablename__ = "ledger"
    job_id: Mapped[str] = mapped_column(Id, primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    device: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    ended: Mapped[str] = mapped_column(String(16))
    """How the attempt ended: succeeded, failed, cancelled, lost, released, retried."""
    created_at: Mapped[datetime] = created()


class IdempotencyKey(Base):
    """Which job a client's `Idempotency-Key` made; written in the job's own transaction."""

    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    resource_id: Mapped[str] = mapped_column(Id)
    expires_at: Mapped[datetime] = mapped_column(index=True)
