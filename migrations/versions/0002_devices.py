"""How many devices a job needs, whether it may change between CPU and GPU, and what a worker that is there can do."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("devices", sa.BigInteger(), server_default=sa.text("1"), nullable=False))
        # Jobs that wait already stay where they were put.
        batch_op.add_column(sa.Column("any_device", sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("details", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("details")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("any_device")
        batch_op.drop_column("devices")
