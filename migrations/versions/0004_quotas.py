"""Further quotas of a project, the bytes that an upload has received, and whose turn it is in each queue."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("max_models", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("max_compute_seconds", sa.Float(), nullable=True))
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("received_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    parts = "SELECT COALESCE(SUM(size_bytes), 0) FROM upload_parts WHERE upload_parts.upload_id = uploads.id"
    whole = "SELECT blobs.size_bytes FROM blobs WHERE blobs.sha256 = uploads.blob_sha256"
    op.execute(f"UPDATE uploads SET received_bytes = COALESCE(({whole}), ({parts}))")  # noqa: S608 - no values of anybody's
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_artifacts_project_id"), ["project_id"], unique=False)
    identity = sa.String(48).with_variant(sa.String(48, collation="C"), "postgresql")
    op.create_table(
        "turns",
        sa.Column("queue", sa.String(length=64), nullable=False),
        sa.Column("project_id", identity, nullable=False),
        sa.Column("served_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_turns_project_id")),
        sa.PrimaryKeyConstraint("queue", "project_id", name=op.f("pk_turns")),
    )


def downgrade() -> None:
    op.drop_table("turns")
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_artifacts_project_id"))
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_column("received_bytes")
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_column("max_compute_seconds")
        batch_op.drop_column("max_models")
