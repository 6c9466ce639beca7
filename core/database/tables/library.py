"""Models, datasets, uploads, and the artifacts that jobs publish."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from core.database.tables.base import Base, Id, JsonList, JsonObject, blob, created


class Model(Base):
    """An uploaded neural network, or a promoted artifact."""

    __tablename__ = "models"
    __table_args__ = (CheckConstraint("status IN ('inspecting','ready','invalid')", name="status"), Index(None, "project_id", "id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(32))
    labels: Mapped[JsonObject] = mapped_column(server_default=text("'{}'"))
    """The client's own pairs, as `ModelLabel` has them as rows."""
    declared: Mapped[JsonObject]
    """The metadata that the client declared: architecture, input_specs, task, labels …"""
    blob_sha256: Mapped[str | None] = blob()
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
    created_at: Mapped[datetime] = created()
    deleted_at: Mapped[datetime | None]


class Dataset(Base):
    """Uploaded examples."""

    __tablename__ = "datasets"
    __table_args__ = (CheckConstraint("status IN ('inspecting','ready','invalid')", name="status"), Index(None, "project_id", "id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(32))
    labels: Mapped[JsonObject] = mapped_column(server_default=text("'{}'"))
    """The client's own pairs, as `DatasetLabel` has them as rows."""
    declared: Mapped[JsonObject]
    """The metadata that the client declared: preprocessing …"""
    blob_sha256: Mapped[str | None] = blob()
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16))
    inspection: Mapped[JsonObject | None] = mapped_column(deferred=True)
    """All that was found; may be long, and is loaded when it is asked for."""
    findings: Mapped[JsonObject | None] = query_expression()
    """What was found but for its long lists; loaded by `core.library.inputs`."""
    error: Mapped[JsonObject | None]
    created_at: Mapped[datetime] = created()
    deleted_at: Mapped[datetime | None]


class _Label:
    """One label, as a row to search for; `owner_id` is what has it."""

    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(255))


class ModelLabel(_Label, Base):
    """A label of a model."""

    __tablename__ = "model_labels"
    __table_args__ = (Index(None, "key", "value", "owner_id"),)
    owner_id: Mapped[str] = mapped_column(Id, ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)


class DatasetLabel(_Label, Base):
    """A label of a dataset."""

    __tablename__ = "dataset_labels"
    __table_args__ = (Index(None, "key", "value", "owner_id"),)
    owner_id: Mapped[str] = mapped_column(Id, ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)


class ArtifactLabel(_Label, Base):
    """A label of an artifact."""

    __tablename__ = "artifact_labels"
    __table_args__ = (Index(None, "key", "value", "owner_id"),)
    owner_id: Mapped[str] = mapped_column(Id, ForeignKey("artifacts.id", ondelete="CASCADE"), primary_key=True)


class Template(Base):
    """A spec, or a part of one, that jobs are made of."""

    __tablename__ = "templates"
    __table_args__ = (Index(None, "project_id", "id"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id, ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str | None] = mapped_column(String(2000))
    spec: Mapped[JsonObject]
    created_at: Mapped[datetime] = created()


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
    blob_sha256: Mapped[str | None] = blob()
    created_at: Mapped[datetime] = created()
    expires_at: Mapped[datetime] = mapped_column(index=True)


class UploadPart(Base):
    """One part of an upload, stored and verified."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[str] = mapped_column(Id, ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    storage_key: Mapped[str] = mapped_column(String(200))
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = created()


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
    blob_sha256: Mapped[str] = blob(nullable=False)
    size_bytes: Mapped[int]
    gzip_bytes: Mapped[int | None]
    metrics: Mapped[JsonObject]
    name: Mapped[str | None] = mapped_column(String(200))
    """What a client calls it."""
    labels: Mapped[JsonObject] = mapped_column(server_default=text("'{}'"))
    """The client's own pairs, as `ArtifactLabel` has them as rows."""
    settings: Mapped[JsonList] = mapped_column(server_default=text("'[]'"))
    """What was measured on it, one entry a setting."""
    created_at: Mapped[datetime] = created()
