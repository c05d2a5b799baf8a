"""Writes what this version stores to ``tests/stored/VERSION``: ``python -m tests.stored``.

Done once for each version, when it is released. Later versions must read it.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fakes import FakeCluster, FakeTracking
from tests.stored import STORED
from tests.unit.selfsup.test_stored import flat, observe
from vicreg_platform import __version__
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.contract.failure_class import FAILURE_LINE, FailureClass
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.service import JobService
from vicreg_platform.keys.schemas import Role
from vicreg_platform.keys.service import KeyService
from vicreg_platform.needs import Bundle
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.schedules.spec import parse_schedule
from vicreg_platform.settings import Settings
from vicreg_platform.specs import parse_spec

DIGITS = {"source": "digits"}
LABELLED = {"train": DIGITS, "test": DIGITS | {"split": "test"}}
PRETRAIN = {"kind": "pretrain", "data": DIGITS}
SPECS: dict[str, dict[str, Any]] = {
    "pretrain": {
        "kind": "pretrain",
        "data": {"source": "image_folder", "path": "photos", "image_size": 64},
        "method": {"name": "vicregl"},
        "backbone": {"name": "timm/convnext_tiny", "drop_path": 0.1},
        "init": {"timm": "convnext_tiny"},
        "augmentation": {"views": {"global": 2, "local": 4, "local_size": 32}},
        "optimizer": {"name": "adamw", "base_lr": 1e-3, "layer_decay": 0.8},
        "training": {
            "epochs": 10,
            "batch_size": 64,
            "freeze_epochs": 2,
            "sizes": [[0, 48], [5, 64]],
        },
        "resources": {"workers": {"min": 1, "max": 4}},
        "watch": {"probe": LABELLED},
        "evaluations": [{"protocol": {"name": "knn"}, "data": LABELLED, "at_epochs": [5]}],
    },
    "evaluate": {
        "kind": "evaluate",
        "encoder": {"job": "01a2132bb4d67eb2f767"},
        "protocol": {"name": "few_shot"},
        "data": LABELLED,
    },
    "sweep": {
        "kind": "sweep",
        "base": {"data": DIGITS, "watch": {"knn_every_epochs": 1}},
        "space": {"method.variance": {"choice": [1, 25]}},
        "search": {"trials": 16, "seeds": 2},
        "concurrency": 2,
    },
}
SCHEDULE = {
    "name": "nightly", "cron": "30 2 * * *", "timezone": "Europe/Paris",
    "job": PRETRAIN,
}  # fmt: skip


def write_database(file: Path) -> None:
    """Write a database in which a job is in each place that a later version may find one in.

    Args:
        file: of SQL statements.
    """
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/platform.db")
        database.migrate()
        _fill(database, Path(folder))
        database.dispose()
        with sqlite3.connect(Path(folder) / "platform.db") as connection:
            file.write_text("\n".join(connection.iterdump()) + "\n")


def _fill(database: Database, folder: Path) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def clock() -> datetime:
        return now

    cluster, tracking = FakeCluster(nodes=(Bundle(3, 0),)), FakeTracking()
    settings = Settings(
        database_url="", ray_url="", mlflow_url="http://mlflow", storage=str(folder),
        data_root=folder, warm_start=False,
    )  # fmt: skip
    dispatcher = Dispatcher(database, cluster, tracking, settings, clock)
    jobs = JobService(database, folder, "http://mlflow", clock)

    def submit(name: str, spec: dict[str, Any]) -> str:
        nonlocal now
        now += timedelta(seconds=1)
        job, _ = jobs.submit(spec | {"name": name})
        dispatcher.round()
        return job.id

    def set_state(job: str, state: SubmissionState, code: int | None = None) -> None:
        nonlocal now
        now += timedelta(seconds=1)
        cluster.set(f"{job}-1", state, code)
        dispatcher.round()

    KeyService(database, clock).create("first", Role.ADMIN)
    done = submit(
        "done",
        PRETRAIN | {"labels": {"team": "vision"}, "evaluations": [{"protocol": {"name": "knn"}}]},
    )
    set_state(done, SubmissionState.RUNNING)
    tracking.metrics = {"train/loss": 3.0}
    set_state(done, SubmissionState.SUCCEEDED, 0)  # its evaluation starts
    failed = submit("failed", PRETRAIN)
    cluster.logs[f"{failed}-1"] = f"{FAILURE_LINE}no images in /data"
    set_state(failed, SubmissionState.FAILED, FailureClass.USER.exit_code)
    paused = submit("paused", PRETRAIN)
    set_state(paused, SubmissionState.RUNNING)
    JobControl(database, jobs, clock).pause(paused)
    set_state(paused, SubmissionState.STOPPED)
    between = submit("between", PRETRAIN | {"retry": {"max_attempts": 9}})
    set_state(between, SubmissionState.FAILED, 137)
    submit("search", SPECS["sweep"])
    ScheduleService(database, jobs, clock).create(SCHEDULE)
    submit("queued", PRETRAIN | {"priority": 3, "resources": {"workers": 4}})


def main() -> None:
    """Write the folder of this version."""
    folder = STORED / __version__
    folder.mkdir()
    for kind, spec in SPECS.items():
        _write(folder / f"{kind}.json", parse_spec(spec).model_dump(mode="json"))
    _write(folder / "schedule.json", parse_schedule(SCHEDULE).model_dump(mode="json"))
    observed = observe()
    assert observed.state is not None
    training = {
        "metrics": sorted(observed.recorded),
        "figures": observed.figures,
        "checkpoint": flat({"shared": observed.state.shared, "own": observed.state.own}),
    }
    _write(folder / "training.json", training)
    write_database(folder / "database.sql")


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
