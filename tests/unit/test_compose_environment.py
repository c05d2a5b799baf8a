"""The `.env` that `make compose-env` writes, with a Docker engine that says what a test needs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRETS = {"POSTGRES_PASSWORD", "MLFLOW_POSTGRES_PASSWORD", "RAY_AUTH_TOKEN", "VICREG_API_KEY"}
DIGEST = f"sha256:{'0123' * 16}"


def environment(folder: Path, docker: str | None) -> dict[str, str]:
    """What is printed if ``docker`` on the PATH is this shell script."""
    if docker is not None:
        (folder / "docker").write_text(f"#!/bin/sh\n{docker}\n")
        (folder / "docker").chmod(0o755)
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/environment.py"],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_the_images_are_those_that_the_engine_has(tmp_path: Path) -> None:
    found = environment(
        tmp_path,
        f"""echo "$@" >> {tmp_path}/asked
        for image in "$@"; do :; done
        name=${{image%%:*}}
        echo "mirror.example:5000/$name@sha256:beef $name@{DIGEST}" """,
    )
    assert found["VICREG_PYTHON_IMAGE"] == f"python:3.11-slim@{DIGEST}"
    assert found["VICREG_POSTGRES_IMAGE"] == f"postgres:17@{DIGEST}"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert all(line.startswith("image inspect ") for line in asked)  # nothing is pulled


@pytest.mark.parametrize(
    "docker",
    [
        None,
        "echo 'Cannot connect to the Docker daemon' >&2; exit 1",
        "echo",  # an image that was built here
        "echo mirror.example/python@sha256:beef",
        "case $5 in *@*) exit 1;; *) echo python@sha256:beef postgres@sha256:beef;; esac",
    ],
    ids=["no docker", "no engine", "no digest", "a mirror's", "not found by it"],
)
def test_without_a_digest_the_defaults_stay(tmp_path: Path, docker: str | None) -> None:
    assert environment(tmp_path, docker).keys() == SECRETS


def test_the_images_asked_for_are_the_defaults_of_the_compose_file() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(VICREG_\w+_IMAGE):-([^}]+)\}", text))
    assert runpy.run_path(str(ROOT / "deploy/environment.py"))["IMAGES"] == defaults
