"""Jobs have a parent and are listed without reading their specs; browsers have sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

LISTED = [
    "kind", "state", "experiment", "owner", "parent_id", "priority",
    "created_at", "finished_at", "id", "name",
]  # fmt: skip


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.String(64), nullable=True))
    _fill_parents()
    op.create_index("ix_jobs_parent", "jobs", ["parent_id", "id"])
    op.create_index("ix_jobs_parent_name", "jobs", ["parent_id", "name", "id"])
    op.create_index("ix_jobs_parent_state", "jobs", ["parent_id", "state"])
    op.create_index("ix_jobs_listed", "jobs", LISTED)
    op.create_table(
        "browser_sessions",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("key", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["api_keys.prefix"]),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("ix_browser_sessions_expires_at", "browser_sessions", ["expires_at"])


def _fill_parents() -> None:
    jobs = sa.table(
        "jobs",
        sa.column("id", sa.String),
        sa.column("kind", sa.String),
        sa.column("spec", sa.JSON),
        sa.column("promoted_from", sa.String),
        sa.column("parent_id", sa.String),
    )
    connection = op.get_bind()
    connection.execute(jobs.update().values(parent_id=jobs.c.promoted_from))
    evaluations = sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.kind == "evaluate")
    for job_id, spec in connection.execute(evaluations).all():
        encoder = spec.get("encoder") if isinstance(spec, dict) else None
        parent = encoder.get("job") if isinstance(encoder, dict) else None
        if isinstance(parent, str):
            connection.execute(
                jobs.update().where(jobs.c.id == job_id).values(parent_id=parent[:64])
            )


def downgrade() -> None:
    op.drop_table("browser_sessions")
    op.drop_index("ix_jobs_listed", table_name="jobs")
    for index in ("ix_jobs_parent_state", "ix_jobs_parent_name", "ix_jobs_parent"):
        op.drop_index(index, table_name="jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("parent_id")
