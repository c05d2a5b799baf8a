"""A Ray cluster without workers that grows when a submission waits for a node."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vicreg_platform.cli.local import Child, free_ports
from vicreg_platform.cluster import Submission, SubmissionState, nodes_of
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.errors import ClusterUnavailable
from vicreg_platform.needs import Bundle

WAIT_SECONDS = 90.0
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_enable_autoscaler_v2": "1",  # as KubeRay runs it
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
}


class ScalingCluster:
    """A head that only runs drivers, and nodes on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._children: list[Child] = []
        dashboard, self._gcs, client = free_ports(3)
        self.url = f"http://127.0.0.1:{dashboard}"
        self._start(
            "head",
            "--head",
            f"--port={self._gcs}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={client}",
            f"--temp-dir={folder}",
            "--num-cpus=0",
        )

    def add_node(self, cpus: int) -> None:
        self._start("node", f"--address=127.0.0.1:{self._gcs}", f"--num-cpus={cpus}")

    def end(self) -> None:
        for child in reversed(self._children):
            child.end()

    def _start(self, name: str, *arguments: str) -> None:
        agent, metrics = free_ports(2)
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block",
            "--node-ip-address=127.0.0.1",
            f"--dashboard-agent-listen-port={agent}",
            f"--metrics-export-port={metrics}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
            *arguments,
        ]  # fmt: skip
        child = Child(name, command, ENVIRONMENT, self.folder / f"{name}.log")
        self._children.append(child)
        child.start()


@pytest.fixture
def ray_cluster() -> Iterator[ScalingCluster]:
    # Ray's sockets lie under its folder, and a socket's path is at most 107 bytes long.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    cluster = ScalingCluster(folder)
    yield cluster
    cluster.end()
    shutil.rmtree(folder, ignore_errors=True)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except ClusterUnavailable:
            pass
        time.sleep(0.2)
    raise AssertionError("it did not come about")


def test_a_submission_waits_in_ray_for_the_node_that_its_cluster_can_have(
    ray_cluster: ScalingCluster,
) -> None:
    as_it_is = RayCluster(ray_cluster.url)
    scaling = RayCluster(ray_cluster.url, nodes=nodes_of("2x1"))
    until(lambda: len(as_it_is.capacity().nodes) == 1)
    assert as_it_is.capacity().total == Bundle(0, 0)
    assert scaling.capacity().nodes == (Bundle(1, 0), Bundle(1, 0))

    go = ray_cluster.folder / "go"
    program = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.1)"
    scaling.submit(Submission("waits", (sys.executable, "-c", program), Bundle(1, 0)))

    def state() -> SubmissionState | None:
        status = scaling.submissions().get("waits")
        return status.state if status else None

    until(lambda: state() is SubmissionState.PENDING)
    ray_cluster.add_node(cpus=1)
    until(lambda: state() is SubmissionState.RUNNING)
    until(lambda: scaling.capacity().used == Bundle(1, 0))
    assert as_it_is.capacity().total == Bundle(1, 0)
    go.touch()
    until(lambda: state() is SubmissionState.SUCCEEDED)
    until(lambda: scaling.capacity().used == Bundle(0, 0))
