"""Evaluations can wait for an encoder that a training keeps while it goes on"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kept_epoch", sa.Integer(), nullable=True))
    with op.batch_alter_table("dependencies", schema=None) as batch_op:
        batch_op.add_column(sa.Column("epoch", sa.Integer(), nullable=True))


def downgrade() -> None:
    # The version before knows no such condition: it would wait for the end of the training.
    op.execute("UPDATE dependencies SET condition = 'succeeded' WHERE condition = 'epoch'")
    with op.batch_alter_table("dependencies", schema=None) as batch_op:
        batch_op.drop_column("epoch")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("kept_epoch")
