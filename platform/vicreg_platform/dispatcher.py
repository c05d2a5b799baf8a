"""``python -m vicreg_platform.dispatcher``: run a dispatcher."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, make_wsgi_app

from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.errors import PlatformError
from vicreg_platform.jobs.service import JobService
from vicreg_platform.settings import Settings
from vicreg_platform.telemetry import UnfinishedJobs
from vicreg_platform.tracking import Tracking

logger = logging.getLogger(__name__)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing: Prometheus and the kubelet ask every few seconds."""


def serve(port: int, alive: Callable[[], bool], host: str = "") -> None:
    """Serve ``/healthz`` and, at every other path, the Prometheus metrics, in threads.

    Args:
        port: where to listen.
        alive: whether ``/healthz`` answers 200; else it answers 503.
        host: the address to listen on. Default: all of them.
    """
    metrics = make_wsgi_app()

    def app(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if request["PATH_INFO"] != "/healthz":
            return list(metrics(request, start))
        healthy = alive()
        start("200 OK" if healthy else "503 Service Unavailable", [("Content-Type", "text/plain")])
        return [b"ok\n" if healthy else b"no round has ended for two minutes\n"]

    server = make_server(host, port, app, _Server, _Quiet)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def main() -> None:
    """Run a dispatcher until it is told to stop."""
    parser = argparse.ArgumentParser(prog="vicreg_platform.dispatcher", description=main.__doc__)
    parser.add_argument("--health-port", type=int, help="serve /healthz on 127.0.0.1 at this port")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = Settings.from_environment()
        database = Database(settings.database_url)
        database.migrate(wait_seconds=60.0)
    except PlatformError as error:
        sys.exit(f"vicreg_platform.dispatcher: {error}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dispatcher = Dispatcher(
        database,
        RayCluster(settings.ray_url, settings.ray_token, settings.ray_nodes),
        Tracking(settings.mlflow_url),
        settings,
    )
    if arguments.health_port is not None:
        serve(arguments.health_port, dispatcher.alive, "127.0.0.1")
    if settings.metrics_port is not None:
        jobs = JobService(database, settings.data_root, settings.mlflow_public_url)
        REGISTRY.register(UnfinishedJobs(jobs.unfinished))
        serve(settings.metrics_port, dispatcher.alive)
    logger.info("dispatching to %s", settings.ray_url)
    dispatcher.run(stop)


if __name__ == "__main__":
    main()
