from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.object_store import CREDENTIALS, object_store_server
from vicreg_platform.cli.local import Child, LocalOptions, LocalPlatform, free_ports
from vicreg_platform.client import Client
from vicreg_platform.jobs.schemas import JobSchema

JOB_SECONDS = 480.0
STEPS_PER_EPOCH = 11
"""Of ``small``."""


@dataclass
class Running:
    """The whole platform, as `vicreg up` runs it."""

    platform: LocalPlatform
    client: Client
    data_root: Path
    storage: Path

    def child(self, name: str) -> Child:
        return next(child for child in self.platform.children if child.name == name)

    def submit(self, **changes: Any) -> JobSchema:
        return self.client.submit(small(**changes))

    def wait(self, job: JobSchema) -> JobSchema:
        return self.client.wait(job.id, timeout=JOB_SECONDS)

    def until(self, job: JobSchema, condition: Callable[[JobSchema], object]) -> JobSchema:
        """Wait until the job is as the test needs it; fail at once where it has ended."""
        deadline = time.monotonic() + JOB_SECONDS
        while True:
            current = self.client.get(job.id)
            if condition(current):
                return current
            assert not current.ended, (current.state, current.reason, self.client.logs(job.id))
            assert time.monotonic() < deadline, current
            time.sleep(0.2)

    def epochs_saved(self, job: JobSchema) -> int:
        """Epochs finished according to the newest checkpoint."""
        manifests = (self.storage / job.id / "checkpoints").glob("step-*/manifest.json")
        steps = max((int(path.parent.name[5:]) for path in manifests), default=0)
        return steps // STEPS_PER_EPOCH

    def until_epoch(self, job: JobSchema, epoch: int) -> None:
        self.until(job, lambda _: self.epochs_saved(job) >= epoch)

    def raylet(self) -> psutil.Process:
        ray = self.child("ray").process
        assert ray is not None
        children = psutil.Process(ray.pid).children(recursive=True)
        return next(each for each in children if each.name() == "raylet")

    def processes(self, text: str) -> list[psutil.Process]:
        """This platform's processes whose command line holds ``text``."""
        found = []
        for process in psutil.process_iter():
            try:
                if text in " ".join(process.cmdline()) and _belongs(process, self.raylet()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def steps(self, job: JobSchema, metric: str = "train/loss") -> list[int]:
        return [int(point["step"]) for point in self.client.metrics(job.id)[metric]]


def _belongs(process: psutil.Process, raylet: psutil.Process) -> bool:
    """Whether the raylet, or its node's warm process, has started the process."""
    warm = f"/{raylet.pid}-"
    return any(
        parent.pid == raylet.pid or warm in " ".join(parent.cmdline())
        for parent in process.parents()
    )


def small(**changes: Any) -> dict[str, Any]:
    """A pretraining of seconds: digits at 8 pixels, 11 steps an epoch."""
    return {
        "kind": "pretrain",
        "name": "small",
        "experiment": "e2e",
        "backbone": {"name": "resnet10", "stem": "cifar"},
        "expander": {"layers": [64, 64]},
        "data": {"source": "digits", "image_size": 8},
        "augmentation": {"preset": "cifar", "horizontal_flip": 0.0},
        "optimizer": {"eta": 0.02},
        "training": {"epochs": 2, "batch_size": 128},
    } | changes


def logged_steps(epochs: int, steps_per_epoch: int = STEPS_PER_EPOCH) -> list[int]:
    """The steps at which a run logs: every tenth, and the last of every epoch."""
    steps = range(1, epochs * steps_per_epoch + 1)
    return [step for step in steps if step % 10 == 0 or step % steps_per_epoch == 0]


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The endpoint of moto's S3, which the workers know from their environment."""
    with object_store_server() as address:
        os.environ |= {"AWS_ENDPOINT_URL": address} | CREDENTIALS
        yield address


@pytest.fixture(scope="session")
def running(object_store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    data_root = home / "data"
    data_root.mkdir()
    os.environ["VICREG_CACHE"] = str(home / "cache")
    api_port, mlflow_port = free_ports(2)
    os.environ["VICREG_RETRY_BACKOFF_SECONDS"] = "1"
    for name in ("PREEMPT_AFTER", "RESIZE_AFTER", "GROW_AFTER"):
        os.environ[f"VICREG_{name}_SECONDS"] = "5"
    platform = LocalPlatform(LocalOptions(home, data_root, api_port, mlflow_port, cpus=2))
    platform.start()
    try:
        key = platform.settings.api_key
        with Client(platform.api_url, wait_seconds=60.0, key=key) as client:
            yield Running(platform, client, data_root, Path(platform.settings.storage))
    finally:
        platform.end()
