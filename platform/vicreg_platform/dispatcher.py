"""``python -m vicreg_platform.dispatcher``: run a dispatcher."""

from __future__ import annotations

import logging
import signal
import sys
import threading

from prometheus_client import REGISTRY, start_http_server

from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.errors import PlatformError
from vicreg_platform.jobs.service import JobService
from vicreg_platform.settings import Settings
from vicreg_platform.telemetry import UnfinishedJobs
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)


def main() -> None:
    """Run a dispatcher until it is told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        database = Database(settings.database_url)
        database.migrate(wait_seconds=60.0)
    except PlatformError as error:
        sys.exit(f"vicreg_platform.dispatcher: {error}")
    if settings.metrics_port is not None:
        jobs = JobService(database, settings.data_root, settings.mlflow_public_url)
        REGISTRY.register(UnfinishedJobs(jobs.unfinished))
        start_http_server(settings.metrics_port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatcher = Dispatcher(
        database,
        RayCluster(settings.ray_url, settings.ray_token, settings.ray_nodes),
        Tracking(settings.mlflow_url),
        settings,
    )
    logger.info("dispatching to %s", settings.ray_url)
    dispatcher.run(stop)


if __name__ == "__main__":
    main()
