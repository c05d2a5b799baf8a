"""Jobs can be paused, preempted, resized, extended and changed; owners have shares"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

OF_JOBS = ("worker_sizes", "resized_at", "preemptible", "displaced_by", "version", "stop_cause",
           "extends", "progress_at")  # fmt: skip


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("worker_sizes", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("resized_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("preemptible", sa.Boolean(), nullable=True))
        batch_op.add_column(sa.Column("displaced_by", sa.String(64), nullable=True))
        batch_op.add_column(sa.Column("version", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("stop_cause", sa.String(16), nullable=True))
        batch_op.add_column(sa.Column("extends", sa.String(64), nullable=True))
        batch_op.add_column(sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("workers", sa.Integer(), nullable=True))
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("max_priority", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("weight", sa.Float(), nullable=True))
    op.create_table(
        "owner_usage",
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("amount", sa.Float(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "queue_view",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("queue_view")
    op.drop_table("owner_usage")
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("weight")
        batch_op.drop_column("max_priority")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("workers")
    # The version before knows no such state: it would wait for nothing, and start at once.
    op.execute("UPDATE jobs SET state = 'queued' WHERE state = 'paused'")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        for name in OF_JOBS:
            batch_op.drop_column(name)
