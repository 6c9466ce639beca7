"""Webhooks that write runs to an MLflow server instead of posting messages."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("mlflow", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("credentials", sa.String(length=4096), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("webhooks", schema=None) as batch_op:
        batch_op.drop_column("credentials")
        batch_op.drop_column("mlflow")
