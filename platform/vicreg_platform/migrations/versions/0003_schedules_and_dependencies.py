"""Jobs wait for several others and for moments, and schedules make jobs

The column ``jobs.depends_on`` stays: processes of the version before read and write it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("finished_at IS NULL")
FUNCTION = """
CREATE FUNCTION add_dependency() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dependencies (job_id, depends_on, condition)
    VALUES (NEW.id, NEW.depends_on, 'succeeded');
    RETURN NULL;
END $$
"""
TRIGGER = """
CREATE TRIGGER add_dependency AFTER INSERT ON jobs
FOR EACH ROW WHEN (NEW.depends_on IS NOT NULL) EXECUTE FUNCTION add_dependency()
"""
"""The dependency of a job that a process of the version before has stored."""


def upgrade() -> None:
    op.create_table(
        "dependencies",
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("depends_on", sa.String(length=64), nullable=False),
        sa.Column("condition", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.ForeignKeyConstraint(["depends_on"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("job_id", "depends_on"),
    )
    op.create_index("ix_dependencies_depends_on", "dependencies", ["depends_on"])
    op.execute(
        "INSERT INTO dependencies (job_id, depends_on, condition) "
        "SELECT id, depends_on, 'succeeded' FROM jobs WHERE depends_on IS NOT NULL"
    )
    _change_answers()
    if op.get_bind().dialect.name == "postgresql":
        # SQLite's only processes are those of one machine, which are replaced together.
        op.execute(FUNCTION)
        op.execute(TRIGGER)
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("schedule_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("start_after", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("deadline", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("max_runtime", sa.Float(), nullable=True))
        batch_op.create_index("ix_jobs_schedule_id", ["schedule_id", "id"])
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline"],
        sqlite_where=UNFINISHED,
        postgresql_where=UNFINISHED,
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("next_tick", sa.DateTime(timezone=True), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_schedules_next_tick", "schedules", ["next_tick"])
    op.create_table(
        "ticks",
        sa.Column("schedule_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("schedule_id", "at"),
    )


def _change_answers() -> None:
    """Answers that are given again have a list where they had one job or none."""
    keys = sa.table("idempotency_keys", sa.column("key", sa.String), sa.column("answer", sa.JSON))
    connection = op.get_bind()
    for key, answer in connection.execute(sa.select(keys.c.key, keys.c.answer)).all():
        one = answer.get("depends_on")
        changed = answer | {"depends_on": [] if one is None else [one]}
        connection.execute(sa.update(keys).where(keys.c.key == key).values(answer=changed))


def downgrade() -> None:
    op.drop_table("ticks")
    op.drop_table("schedules")
    op.drop_index("ix_jobs_deadline", "jobs")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_schedule_id")
        for column in ("max_runtime", "deadline", "start_after", "schedule_id"):
            batch_op.drop_column(column)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER add_dependency ON jobs")
        op.execute("DROP FUNCTION add_dependency")
    # A job of several dependencies keeps one: there was no room for more.
    op.execute(
        "UPDATE jobs SET depends_on = (SELECT min(d.depends_on) FROM dependencies d "
        "WHERE d.job_id = jobs.id)"
    )
    op.drop_table("dependencies")
