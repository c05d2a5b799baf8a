"""Alembic's entry point: the connection comes from ``Database.migrate``."""

from alembic import context

import vicreg_platform.dispatch.lease
import vicreg_platform.jobs.tables
import vicreg_platform.keys.tables
import vicreg_platform.schedules.tables  # noqa: F401
from vicreg_platform.database import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
