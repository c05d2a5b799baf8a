"""Specs carry their version, jobs what they need of the cluster, and finished runs are marked"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNCLOSED = sa.text("run_closed_at IS NULL AND run_id IS NOT NULL")


def upgrade() -> None:
    # All of them may be null: a process of the version before knows none of them.
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("spec_version", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("workers", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("cpus_per_worker", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("gpus_per_worker", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("trials_at_once", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("run_closed_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("schedules", schema=None) as batch_op:
        batch_op.add_column(sa.Column("spec_version", sa.Integer(), nullable=True))
    op.create_index(
        "ix_jobs_unclosed",
        "jobs",
        ["finished_at"],
        sqlite_where=UNCLOSED,
        postgresql_where=UNCLOSED,
    )
    op.execute(
        "UPDATE jobs SET run_closed_at = finished_at WHERE finished_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM attempts WHERE attempts.job_id = jobs.id "
        "AND attempts.archived_at IS NULL)"
    )
    _fill_needs()


def _fill_needs() -> None:
    """What unfinished jobs need; a sweep's is left to be read from its spec."""
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id, spec FROM jobs WHERE finished_at IS NULL"))
    for job_id, stored in rows.fetchall():
        spec = json.loads(stored) if isinstance(stored, str) else stored
        needs = _needs(spec)
        if needs is not None:
            connection.execute(
                sa.text(
                    "UPDATE jobs SET workers = :workers, cpus_per_worker = :cpus, "
                    "gpus_per_worker = :gpus, trials_at_once = 1 WHERE id = :id"
                ),
                needs | {"id": job_id},
            )


def _needs(spec: object) -> dict[str, float] | None:
    resources = spec.get("resources") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(resources, dict):
        return None
    try:
        if spec.get("kind") == "pretrain":
            return {
                "workers": int(resources["workers"]),
                "cpus": float(resources["cpus_per_worker"]),
                "gpus": float(resources["gpus_per_worker"]),
            }
        if spec.get("kind") == "evaluate":
            return {
                "workers": 1,
                "cpus": float(resources["cpus"]),
                "gpus": float(resources["gpus"]),
            }
    except (KeyError, TypeError, ValueError):
        pass
    return None


def downgrade() -> None:
    op.drop_index("ix_jobs_unclosed", "jobs")
    with op.batch_alter_table("schedules", schema=None) as batch_op:
        batch_op.drop_column("spec_version")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        for name in (
            "run_closed_at",
            "trials_at_once",
            "gpus_per_worker",
            "cpus_per_worker",
            "workers",
            "spec_version",
        ):
            batch_op.drop_column(name)
