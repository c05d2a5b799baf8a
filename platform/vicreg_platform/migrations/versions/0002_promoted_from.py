"""Jobs know the sweep whose best configuration they train"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("promoted_from", sa.String(length=64), nullable=True))
        batch_op.create_foreign_key("fk_jobs_promoted_from", "jobs", ["promoted_from"], ["id"])
        batch_op.create_index("ux_jobs_promoted_from", ["promoted_from"], unique=True)


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ux_jobs_promoted_from")
        batch_op.drop_constraint("fk_jobs_promoted_from", type_="foreignkey")
        batch_op.drop_column("promoted_from")
