"""Pretrainings whose steps cost the same are found by a key"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("step_cost", sa.String(64), nullable=True))
    op.create_index("ix_jobs_step_cost", "jobs", ["step_cost", "workers", "state", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_step_cost", "jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("step_cost")
