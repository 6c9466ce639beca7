"""What every table shares: names of constraints, column types, stored blobs, leases."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, LargeBinary, MetaData, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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


def created() -> Mapped[datetime]:
    """A column of the time at which a row was made, by the database's clock."""
    return mapped_column(insert_default=db_now())


def blob(*, nullable: bool = True) -> Mapped[Any]:
    """A column that names a stored blob."""
    return mapped_column(String(64), ForeignKey("blobs.sha256"), nullable=nullable, index=True)


class StoredBlob(Base):
    """Bytes in the blob store, known by their SHA-256. `chunk_digests`: see `core.blobs.digest`."""

    __tablename__ = "blobs"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int]
    chunk_digests: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    created_at: Mapped[datetime] = created()
    touched_at: Mapped[datetime] = mapped_column(insert_default=db_now(), index=True)


class Lease(Base):
    """A right that one process has at a time, such as being the reconciler."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(String(500), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    expires_at: Mapped[datetime]
    details: Mapped[JsonObject | None]
    """What the owner states about itself."""
