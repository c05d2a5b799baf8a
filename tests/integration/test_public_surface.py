"""What others rely on stays where it is, whatever file it lives in."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


PUBLIC = (
    "from vicreg_workers.selfsup import VICRegLoss, covariance, invariance, variance",
    "from vicreg_platform.client import ApiError, Client",
    "from vicreg_platform import __version__",
    "from vicreg_platform.specs import parse_spec, spec_schema",
    "import vicreg_platform.dispatcher",
    "import vicreg_workers.main, vicreg_workers.export",
)


def test_what_is_imported() -> None:
    # One process for all: a fault's traceback names the line.
    done = run("-c", "\n".join(PUBLIC))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["vicreg_api", "vicreg_workers.export"])
def test_what_is_run_as_a_module(module: str) -> None:
    done = run("-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_the_client_needs_no_database_and_imports_fast() -> None:
    # httpx and pydantic are most of what is left: some 0.2 s on a quiet machine.
    code = (
        "import sys, vicreg_platform.client;"
        "slow = ('sqlalchemy', 'alembic', 'mlflow', 'prometheus_client', 'torch', 'ray', 'yaml',"
        "        'vicreg_platform.specs');"
        "print([name for name in slow if name in sys.modules])"
    )
    assert run("-c", code).stdout.strip() == "[]"


def test_the_commands_of_vicreg() -> None:
    done = run("-m", "vicreg_platform.cli", "--help")
    names = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ")}
    assert names >= {
        "up", "demo", "submit", "jobs", "show", "logs", "cancel", "retry", "trials", "promote",
        "schedules", "keys", "migrate", "check-dispatcher", "schema", "export", "recipe",
        "events", "metrics", "clone", "cluster", "evaluate", "data", "checkpoints",
    }  # fmt: skip
