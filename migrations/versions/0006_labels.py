"""Labels of models, datasets and artifacts, names of artifacts, and templates of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
_ID = sa.String(48).with_variant(sa.String(48, collation="C"), "postgresql")
_OWNERS = ("model", "dataset", "artifact")


def upgrade() -> None:
    for owner in _OWNERS:
        with op.batch_alter_table(f"{owner}s", schema=None) as batch_op:
            batch_op.add_column(sa.Column("labels", sa.JSON(none_as_null=True), server_default=sa.text("'{}'"), nullable=False))
            if owner == "artifact":
                batch_op.add_column(sa.Column("name", sa.String(length=200), nullable=True))
        table = f"{owner}_labels"
        op.create_table(
            table,
            sa.Column("owner_id", _ID, nullable=False),
            sa.Column("key", sa.String(length=63), nullable=False),
            sa.Column("value", sa.String(length=255), nullable=False),
            sa.ForeignKeyConstraint(["owner_id"], [f"{owner}s.id"], name=op.f(f"fk_{table}_owner_id"), ondelete="CASCADE"),
            sa.PrimaryKeyConstraint("owner_id", "key", name=op.f(f"pk_{table}")),
        )
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_index(batch_op.f(f"ix_{table}_key_{table}_value_{table}_owner_id"), ["key", "value", "owner_id"], unique=False)
    op.create_table(
        "templates",
        sa.Column("id", _ID, nullable=False),
        sa.Column("project_id", _ID, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("description", sa.String(length=2000), nullable=True),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_templates_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    with op.batch_alter_table("templates", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_templates_project_id_templates_id"), ["project_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_table("templates")
    for owner in reversed(_OWNERS):
        op.drop_table(f"{owner}_labels")
        with op.batch_alter_table(f"{owner}s", schema=None) as batch_op:
            if owner == "artifact":
                batch_op.drop_column("name")
            batch_op.drop_column("labels")
