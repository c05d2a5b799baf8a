"""Labels that are changed are brought to the tags of the run"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WHERE = sa.text("relabelled_at IS NOT NULL AND run_id IS NOT NULL")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("relabelled_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_jobs_relabelled",
        "jobs",
        ["relabelled_at"],
        sqlite_where=WHERE,
        postgresql_where=WHERE,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_relabelled", "jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("relabelled_at")
