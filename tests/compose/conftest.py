"""A cluster of containers, built from this checkout, with its own names and ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.conftest import small
from vicreg_platform.cli.local import free_ports
from vicreg_platform.client import ApiError, ApiUnreachable, Client
from vicreg_platform.jobs.schemas import JobSchema

ROOT = Path(__file__).parents[2]
PROJECT = "vicreg-test"
HEALTHY_SECONDS = 120
WAIT_SECONDS = 420.0


@dataclass
class Cluster:
    """The cluster of docker-compose.yml."""

    environment: dict[str, str]
    client: Client
    files: tuple[str, ...]

    def compose(self, *arguments: str) -> str:
        files = (argument for file in self.files for argument in ("-f", file))
        return run(["docker", "compose", "-p", PROJECT, *files, *arguments], self.environment)

    def docker(self, *arguments: str) -> str:
        return run(["docker", *arguments], self.environment)

    def up(self) -> None:
        self.compose(
            "up", "--detach", "--wait", "--wait-timeout", str(HEALTHY_SECONDS),
            "--scale", "ray-worker=2",
        )  # fmt: skip

    def container(self, service: str, index: int = 1) -> str:
        return f"{PROJECT}-{service}-{index}"

    def addresses(self, service: str) -> set[str]:
        """The addresses of a service's containers on their network."""
        names = self.compose("ps", "--quiet", service).split()
        found = json.loads(self.docker("inspect", *names))
        return {
            network["IPAddress"]
            for container in found
            for network in container["NetworkSettings"]["Networks"].values()
        }

    def submit(self, **changes: Any) -> JobSchema:
        return self.client.submit(small(experiment="compose", resources={"workers": 2}) | changes)

    def get(self, job_id: str) -> JobSchema | None:
        """The job; None while the API is unreachable."""
        try:
            return self.client.get(job_id)
        except (ApiError, ApiUnreachable):
            return None

    def until(self, job_id: str, condition: Callable[[JobSchema], object]) -> JobSchema:
        """Wait until the job is as the test needs it; fail at once if it has ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            job = self.get(job_id)
            if job is not None:
                if condition(job):
                    return job
                assert not job.ended, (job.state, job.reason, self.client.logs(job_id)[-3000:])
            assert time.monotonic() < deadline, (job, self.compose("ps", "--all"))
            time.sleep(0.5)


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@contextmanager
def brought_up(*files: str, **variables: str) -> Iterator[Cluster]:
    """The cluster of docker-compose.yml and more files: built first, removed with its volumes."""
    secrets = run([sys.executable, "deploy/environment.py"], dict(os.environ))
    api, mlflow, ray = free_ports(3)
    environment = dict(os.environ) | {
        "DOCKER_BUILDKIT": "0",
        "COMPOSE_DISABLE_ENV_FILE": "1",
        "VICREG_API_PORT": str(api),
        "VICREG_MLFLOW_PORT": str(mlflow),
        "VICREG_RAY_PORT": str(ray),
        "VICREG_MLFLOW_PUBLIC_URL": f"http://localhost:{mlflow}",
    }
    environment |= dict(line.split("=", 1) for line in secrets.splitlines()) | variables
    client = Client(f"http://127.0.0.1:{api}", wait_seconds=60.0, key=environment["VICREG_API_KEY"])
    cluster = Cluster(environment, client, ("docker-compose.yml", *files))
    try:
        cluster.compose("build")
        cluster.up()
        yield cluster
    finally:
        cluster.compose("down", "--volumes", "--timeout", "5")
        client.close()
