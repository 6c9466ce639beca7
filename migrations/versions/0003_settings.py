"""Figures of every setting of an artifact; whether a job is shown, in place of a closed list of what jobs do."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("settings", sa.JSON(none_as_null=True), server_default=sa.text("'[]'"), nullable=False))
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("shown", sa.Boolean(), server_default=sa.true(), nullable=False))
        batch_op.drop_constraint(batch_op.f("ck_jobs_kind"), type_="check")
        batch_op.drop_index(batch_op.f("ix_jobs_project_id_jobs_kind_jobs_id"))
        batch_op.create_index(batch_op.f("ix_jobs_project_id_jobs_shown_jobs_id"), ["project_id", "shown", "id"], unique=False)
    op.execute(sa.text("UPDATE jobs SET shown = false WHERE kind <> 'compress'"))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_project_id_jobs_shown_jobs_id"))
        batch_op.create_index(batch_op.f("ix_jobs_project_id_jobs_kind_jobs_id"), ["project_id", "kind", "id"], unique=False)
        batch_op.create_check_constraint(batch_op.f("ck_jobs_kind"), "kind IN ('compress','inspect_model','inspect_dataset')")
        batch_op.drop_column("shown")
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.drop_column("settings")
