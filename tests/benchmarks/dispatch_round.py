"""What a round of the dispatcher costs with a long queue and a full cluster.

``python -m tests.benchmarks.dispatch_round``: 10,000 queued and 1,000 running jobs in a SQLite
file, a Ray head that answers over HTTP with 125 full nodes of 8 GPUs, and MLflow in two
conditions: it answers, or it accepts connections and never does.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from sqlalchemy import insert

from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.jobs.tables import Attempt, Event, Job
from vicreg_platform.recipes import load_recipe
from vicreg_platform.settings import Settings
from vicreg_platform.specs import parse_spec
from vicreg_platform.tracking import Tracking

NODES = 125
NODE = {"CPU": 64.0, "GPU": 8.0}
GPUS = (1, 1, 1, 2, 4, 8)


def fill(database: Database, queued: int, running: int) -> dict[str, int]:
    """Store jobs of 20 owners, as wide as real ones; the GPUs of those that run, by their ids."""
    spec = parse_spec(load_recipe("digits")).model_dump(mode="json")
    now = datetime.now(UTC)
    generator = random.Random(0)
    jobs: list[dict[str, Any]] = []
    gpus: dict[str, int] = {}
    for number in range(queued + running):
        runs = number < running
        job_id = f"{number:015x}00000"
        workers = 1 if runs else generator.choice(GPUS)
        if runs:
            gpus[job_id] = workers
        jobs.append(
            {
                "id": job_id,
                "kind": "pretrain",
                "name": f"job {number}",
                "experiment": "benchmark",
                "priority": generator.randrange(-2, 3),
                "spec": spec,
                "spec_version": 2,
                "version": 1,
                "request": spec,
                "workers": workers,
                "cpus_per_worker": 8.0,
                "gpus_per_worker": 1.0,
                "trials_at_once": 1,
                "preemptible": True,
                "max_attempts": 3,
                "max_runtime": generator.choice([None, 3600.0 * generator.randrange(1, 48)]),
                "state": "running" if runs else "queued",
                "owner": f"owner {generator.randrange(20)}",
                "run_id": f"run-{number}" if runs else None,
                "experiment_id": "1" if runs else None,
                "summary": {},
                "created_at": now - timedelta(hours=2),
            }
        )
    attempts = [
        {
            "job_id": job_id,
            "number": 1,
            "submission_id": f"{job_id}-1",
            "created_at": now - timedelta(minutes=5),
            "submitted_at": now - timedelta(minutes=5),
        }
        for job_id in gpus
    ]
    events = [{"job_id": job["id"], "at": now, "after": job["state"]} for job in jobs]
    with database.write() as session:
        for table, rows in ((Job, jobs), (Attempt, attempts), (Event, events)):
            session.execute(insert(table), rows)
    return gpus


class Ray(BaseHTTPRequestHandler):
    """The answers of a Ray head (2.60) to what the dispatcher asks."""

    answers: dict[str, bytes]

    def do_GET(self) -> None:
        """Answer from memory."""
        body = self.answers.get(self.path.partition("?")[0], b"{}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Accept whatever is submitted or stopped."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


def answers_of(gpus: dict[str, int]) -> dict[str, bytes]:
    """What Ray says of a cluster on which these jobs run."""
    names = [f"node-{number:03d}" for number in range(NODES)]
    used = dict.fromkeys(names, 0)
    jobs, groups = [], []
    for number, (job_id, count) in enumerate(gpus.items()):
        node = next(name for name in names if used[name] + count <= NODE["GPU"])
        used[node] += count
        driver = {"job_id": f"{number:08x}", "submission_id": f"{job_id}-1", "status": "RUNNING"}
        jobs.append(driver | {"driver_node_id": node})
        resources = {"CPU": 8.0, "GPU": 1.0}
        bundle = {"node_id": node, "unit_resources": resources}
        groups.append(
            {"creator_job_id": f"{number:08x}", "state": "CREATED", "bundles": [bundle] * count}
        )
    nodes = [{"node_id": name, "state": "ALIVE", "resources_total": NODE} for name in names]
    usage = {
        name: f"Usage:\n {used[name] * 8}.0/64.0 CPU\n {used[name]}.0/8.0 GPU" for name in names
    }
    answers = {
        "/api/jobs/": jobs,
        "/nodes": {"data": {"nodeLogicalResources": usage, "summary": []}},
        "/api/v0/nodes": {"data": {"result": {"result": nodes}}},
        "/api/v0/placement_groups": {"data": {"result": {"result": groups}}},
    }
    return {path: json.dumps(answer).encode() for path, answer in answers.items()}


@contextmanager
def served(answers: dict[str, bytes]) -> Iterator[str]:
    """A Ray head that gives these answers."""
    handler = type("Answering", (Ray,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def hanging() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def seconds_of_rounds(settings: Settings, seconds: float) -> list[float]:
    """Run a dispatcher for a while; how long each of its rounds with Ray took."""
    database = Database(settings.database_url)
    cluster = RayCluster(settings.ray_url)
    dispatcher = Dispatcher(database, cluster, Tracking(settings.mlflow_url), settings)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))

    def total(what: str) -> float:
        name = f"vicreg_dispatch_round_seconds_{what}"
        return REGISTRY.get_sample_value(name, {"loop": "cluster"}) or 0.0

    thread.start()
    taken: list[float] = []
    deadline = time.monotonic() + seconds
    rounds, before = total("count"), total("sum")
    while time.monotonic() < deadline:
        if total("count") > rounds:
            taken.append(total("sum") - before)
            rounds, before = total("count"), total("sum")
        time.sleep(0.01)
    stop.set()
    thread.join()
    database.dispose()
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--running", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=40.0, help="for each condition")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/platform.db"
        database = Database(url)
        database.migrate()
        gpus = fill(database, options.queued, options.running)
        database.dispose()
        with served(answers_of(gpus)) as ray, served({}) as answering, hanging() as silent:
            print("| MLflow | rounds | median | slowest |\n|---|---|---|---|")
            for name, mlflow in (("answers", answering), ("hangs", silent)):
                settings = Settings(
                    database_url=url,
                    ray_url=ray,
                    mlflow_url=mlflow,
                    storage=folder,
                    data_root=Path(folder),
                )
                taken = sorted(seconds_of_rounds(settings, options.seconds))
                median = taken[len(taken) // 2]
                print(f"| {name} | {len(taken)} | {median:.2f} s | {taken[-1]:.2f} s |")


if __name__ == "__main__":
    main()
