"""The tables. A row is data: what may happen to it stands in `core.jobs`, `core.library.models` and so on.

One file: the tables are one schema, refer to each other, and are compared with the migrations as a whole.
Ids are text that sorts by time. Times are aware and in UTC. JSON columns hold what is shown, never what is searched for.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Float, ForeignKey, Index, LargeBinary, MetaData, String, Text, false, text, true
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression

from core.database.clock import UtcDateTime, db_now

JsonObject = dict[str, Any]
JsonList = list[Any]

# Ids compare byte by byte on both databases, whatever the locale of the PostgreSQL cluster.
Id = String(48).with_variant(String(48, collation="C"), "postgresql")

QUEUED = text("status = 'queued'")
RUNNING = text("status = 'running'")


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can change it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime(),
        JsonObject: JSON(none_as_null=True),
        JsonList: JSON(none_as_null=True),
        int: BigInteger(),
        str: Text(),
        float: Float(),
    }


def _created() -> Mapped[datetime]:
    return mapped_column(insert_default=db_now())


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
    created_at: Mapped[datetime] = _created()


class ApiKey(Base):
    """One API key; only the SHA-256 of its secret is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[JsonList]
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class StoredBlob(Base):
    """Bytes in the blob store, known by their SHA-256. `chunk_digests`: see `core.blobs.digest`."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int]
    chunk_digests: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime] = _created()
    touched_at: Mapped[datetime] = mapped_column(insert_default=db_now(), index=True)


def _blob(*, nullable: bool = True) -> Mapped[Any]:
    return mapped_column(String(64), ForeignKey("blobs.sha256"), nullable=nullable, index=True)


class Model(Base):
    """An uploaded neural network, or a promoted artifact."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint("status IN ('inspecting','ready','invalid')", name="status"), Index(None, "project_id", "id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(32))
    declared: Mapped[JsonObject]
    """The metadata that the client declared: architecture, input_specs, task, labels …"""
    blob_sha256: Mapped[str | None] = _blob()
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    inspection: Mapped[JsonObject | None] = mapped_column(deferred=True)
    """All that was found; may be long, and is loaded when it is asked for."""
    findings: Mapped[JsonObject | None] = query_expression()
    """What was found but for its long lists; loaded by `core.library.inputs`."""
    error: Mapped[JsonObject | None]
    source_artifact_id: Mapped[str | None] = mapped_column(Id)
    source_job_id: Mapped[str | None] = mapped_column(Id)
    source_model_id: Mapped[str | None] = mapped_column(Id)
    created_at: Mapped[datetime] = _created()
    deleted_at: Mapped[datetime | None]


class Dataset(Base):
    """Uploaded examples."""

    __tablename__ = "datasets"
    __table_args__ = (CheckConstraint("status IN ('inspecting','ready','invalid')", name="status"), Index(None, "project_id", "id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(32))
    declared: Mapped[JsonObject]
    """The metadata that the client declared: preprocessing …"""
    blob_sha256: Mapped[str | None] = _blob()
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    inspection: Mapped[JsonObject | None] = mapped_column(deferred=True)
    """All that was found; may be long, and is loaded when it is asked for."""
    findings: Mapped[JsonObject | None] = query_expression()
    """What was found but for its long lists; loaded by `core.library.inputs`."""
    error: Mapped[JsonObject | None]
    created_at: Mapped[datetime] = _created()
    deleted_at: Mapped[datetime | None]


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
    checkpoint_sha256: Mapped[str | None] = _blob()
    checkpoint: Mapped[JsonObject | None]
    """Where the checkpoint stands: `{"step_index": …}` and what the engine adds."""

    version: Mapped[int]
    """Raised with every visible change: the ETag."""
    event_seq: Mapped[int]
    metric_seq: Mapped[int]
    log_bytes: Mapped[int]
    created_at: Mapped[datetime] = _created()
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
    created_at: Mapped[datetime] = _created()


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


class Artifact(Base):
    """A published file: immutable, verified, written under the winning fence."""

    __tablename__ = "artifacts"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(Id, ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    fence: Mapped[int]
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))
    format: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(200))
    step_index: Mapped[int | None]
    blob_sha256: Mapped[str] = _blob(nullable=False)
    size_bytes: Mapped[int]
    gzip_bytes: Mapped[int | None]
    metrics: Mapped[JsonObject]
    settings: Mapped[JsonList] = mapped_column(server_default=text("'[]'"))
    """What was measured on it, one entry a setting."""
    created_at: Mapped[datetime] = _created()


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
    created_at: Mapped[datetime] = _created()


class IdempotencyKey(Base):
    """Which job a client's `Idempotency-Key` made; written in the job's own transaction."""

    __tablename__ = "idempotency_keys"
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(String(64))
    resource_id: Mapped[str] = mapped_column(Id)
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Upload(Base):
    """A file that arrives in numbered parts."""

    __tablename__ = "uploads"
    __table_args__ = (CheckConstraint("status IN ('open','completed')", name="status"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"), index=True)
    filename: Mapped[str | None] = mapped_column(String(200))
    size_bytes: Mapped[int | None]
    """The whole size where the client declared it."""
    expected_sha256: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    version: Mapped[int]
    """Raised with every part."""
    received_bytes: Mapped[int] = mapped_column(server_default=text("0"))
    """Of all parts together."""
    blob_sha256: Mapped[str | None] = _blob()
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UploadPart(Base):
    """One part of an upload, stored and verified."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[str] = mapped_column(Id, ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    storage_key: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = _created()


class Lease(Base):
    """A right that one process has at a time, such as being the reconciler."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(500), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[datetime]
    details: Mapped[JsonObject | None]
    """What the owner states about itself."""
