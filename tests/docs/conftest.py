from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vicreg_platform.cli.local import free_ports
from vicreg_platform.client import Client

JOB_SECONDS = 300.0

ENCODER = {
    "kind": "pretrain",
    "name": "encoder",
    "experiment": "photos",
    "backbone": {"name": "resnet18"},
    "expander": {"layers": [64, 64]},
    "data": {"source": "digits", "image_size": 32, "share": 0.1},
    "training": {"epochs": 1, "batch_size": 64},
}
"""A torchvision network, for the examples that use a finished encoder."""


@dataclass(frozen=True)
class Platform:
    """A platform as ``vicreg up`` runs it, with a folder of images and an encoder in training."""

    home: Path
    api: str
    mlflow: str
    encoder: str
    """The job that trains it."""

    def environment(self) -> dict[str, str]:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        urls = {
            "VICREG_API_URL": f"http://{self.api}",
            "VICREG_MLFLOW_URL": f"http://{self.mlflow}",
            "VICREG_HOME": str(self.home),
            "HOME": str(self.home),  # where ~/images lies
        }
        return os.environ | urls | {"PATH": tools}

    def client(self) -> Client:
        return Client(f"http://{self.api}", key=(self.home / "api-key").read_text().strip())

    def wait_for_encoder(self) -> None:
        with self.client() as client:
            done = client.wait(self.encoder, timeout=JOB_SECONDS)
            assert done.state == "succeeded", done.reason

    def cancel_others(self) -> None:
        """Leave the cluster to the next page."""
        with self.client() as client:
            states = ["waiting", "queued", "starting", "running"]
            for job in list(client.find_all(state=states)):
                if job.id != self.encoder:
                    client.cancel(job.id)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("home")
    _photos(home / "images" / "photos")
    _flat(home / "images" / "pictures")
    api, mlflow = free_ports(2)
    command = [sys.executable, "-c", "from vicreg_platform.cli.commands import main; main()", "up"]
    options = ["--home", home, "--api-port", api, "--mlflow-port", mlflow]
    process = subprocess.Popen(
        [*command, *map(str, options), "--data-root", str(home / "images")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert any("ready" in line for line in process.stdout), "vicreg up has stopped"
        key = (home / "api-key").read_text().strip()
        with Client(f"http://127.0.0.1:{api}", key=key) as client:
            encoder = client.submit(ENCODER).id
        yield Platform(home, f"127.0.0.1:{api}", f"127.0.0.1:{mlflow}", encoder)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _flat(folder: Path) -> None:
    """Photographs of different sizes, in no order and without classes."""
    folder.mkdir()
    for index, pixels in enumerate(load_digits().images[:200]):
        image = Image.fromarray((pixels * 15).astype("uint8")).resize((64 + index % 5, 64))
        image.convert("RGB").save(folder / f"IMG_{index:04d}.JPG")


def _photos(folder: Path) -> None:
    """Handwritten digits as photographs of ten classes."""
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:200], digits.target, strict=False)):
        split = folder / ("test" if index % 5 == 0 else "train") / str(label)
        split.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 15).astype("uint8")).resize((64, 64))
        image.convert("RGB").save(split / f"{index:03d}.jpg")
