"""Jobs, and what is recorded of them."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, false, text, true
from sqlalchemy.orm import Mapped, mapped_column

from core.database.tables.base import QUEUED, RUNNING, Base, Id, JsonList, JsonObject, blob, created


class Job(Base):
    """One compression, or one inspection of an upload. `status` changes in `core.jobs` only, as compare-and-set."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled')", name="status"),
        # The claim walks the waiting projects of a queue and takes the head of one: both are a few index look-ups.
        Index("ix_jobs_waiting", "queue", "project_id", "rank", "id", postgresql_where=QUEUED, sqlite_where=QUEUED),
        # Holds no column that a heartbeat changes, so that PostgreSQL updates the row in place (HOT).
        Index("ix_jobs_running", "queue", "project_id", postgresql_where=RUNNING, sqlite_where=RUNNING),
        Index(None, "project_id", "shown", "id"),
        Index(None, "model_id"),
        Index(None, "dataset_id"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(String(16))
    """What its process does: `engine.contract.job.Job.kind`."""
    shown: Mapped[bool] = mapped_column(server_default=true())
    """Whether clients see it; the inspection of an upload is hidden."""
    name: Mapped[str | None] = mapped_column(String(200))
    labels: Mapped[JsonObject]

    spec: Mapped[JsonObject]
    """As the client gave it."""
    normalized_spec: Mapped[JsonObject]
    """With every default written out."""
    spec_hash: Mapped[str | None] = mapped_column(String(80))
    spec_version: Mapped[int]
    """Workers claim only versions that they know."""
    engine_version: Mapped[str] = mapped_column(String(64))
    model_id: Mapped[str | None] = mapped_column(Id, ForeignKey("models.id"))
    dataset_id: Mapped[str | None] = mapped_column(Id, ForeignKey("datasets.id"))
    retry_of: Mapped[str | None] = mapped_column(Id)

    traceparent: Mapped[str | None] = mapped_column(String(64))
    """Where the trace stands that its request began; None where traces are off."""

    queue: Mapped[str] = mapped_column(String(64))
    rank: Mapped[int]
    """Minus the priority, so that the order of the line is that of an index."""
    gpu_memory_bytes: Mapped[int]
    """Least memory of each GPU that may run it; 0 for any."""
    devices: Mapped[int] = mapped_column(server_default=text("1"))
    """How many devices it needs."""
    any_device: Mapped[bool] = mapped_column(server_default=false())
    """Whether it may change between the queues of CPUs and GPUs while it waits."""
    available_at: Mapped[datetime | None]
    """Not to be claimed before, after a transient failure."""
    max_attempts: Mapped[int]

    status: Mapped[str] = mapped_column(String(16))
    cancel_requested_at: Mapped[datetime | None]
    phase: Mapped[str | None] = mapped_column(String(64))
    outcome: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[JsonObject | None]
    steps: Mapped[JsonList]
    warnings: Mapped[JsonList]
    summary: Mapped[JsonObject | None]
    error: Mapped[JsonObject | None]

    attempt: Mapped[int]
    """Number of the lease that counts against `max_attempts`; a drained worker gives its attempt back."""
    fence: Mapped[int]
    """Raised with every lease; every write of a worker carries the fence that it was given."""
    lease_expires_at: Mapped[datetime | None]
    attempt_started_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(String(64))
    isolation: Mapped[JsonObject | None]
    checkpoint_sha256: Mapped[str | None] = blob()
    checkpoint: Mapped[JsonObject | None]
    """Where the checkpoint stands: `{"step_index": …}` and what the engine adds."""

    version: Mapped[int]
    """Raised with every visible change: the ETag."""
    event_seq: Mapped[int]
    metric_seq: Mapped[int]
    log_bytes: Mapped[int]
    created_at: Mapped[datetime] = created()
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobTeacher(Base):
    """A further model that a job reads."""

    __tablename__ = "job_teachers"
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[str] = mapped_column(Id, ForeignKey("models.id"), primary_key=True, index=True)


class JobLabel(Base):
    """One label, as a row to search for."""

    __tablename__ = "job_labels"
    __table_args__ = (Index(None, "key", "value", "job_id"),)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class JobEvent(Base):
    """The history of a job: append-only, numbered from 1 without a gap."""

    __tablename__ = "job_events"
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    fence: Mapped[int]
    data: Mapped[JsonObject]
    created_at: Mapped[datetime] = created()


class JobMetric(Base):
    """One point of a series such as `train.loss`; written under a fence, so that a later attempt's series stands apart."""

    __tablename__ = "job_metrics"
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]
    step_index: Mapped[int | None]
    name: Mapped[str] = mapped_column(String(200))
    step: Mapped[int]
    value: Mapped[float | None]
    """Null where the number was not finite."""
    unit: Mapped[str | None] = mapped_column(String(32))


class JobLog(Base):
    """A piece of a job's log, as it came with a heartbeat; `offset` counts bytes from the log's start."""

    __tablename__ = "job_logs"
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    offset: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int]
    content: Mapped[bytes] = mapped_column(LargeBinary)
