"""Checkpoints on an object store: moto's S3 server, by a path-style endpoint."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import fsspec
import pytest
import torch

from tests.integration.conftest import wait_until
from tests.object_store import CREDENTIALS, object_store_server
from tests.unit.selfsup.data.test_sources import make_folder
from tests.unit.selfsup.test_train import Recorder, assert_same, spec_for, train
from vicreg_platform.specs import Objective
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.stop_signal import StopSignal
from vicreg_workers.storage import Folder
from vicreg_workers.sweep.ledger import Entry, Ledger


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with object_store_server() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, configured by environment variables alone, as in compose."""
    for name, value in ({"AWS_ENDPOINT_URL": endpoint} | CREDENTIALS).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    boto3.client("s3").create_bucket(Bucket=name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield f"s3://{name}/storage"
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class OnStore(Recorder):
    """Keeps its checkpoints in the object store."""

    def __init__(self, storage: str, folder: Path, killed_after: int | None = None) -> None:
        super().__init__(folder, killed_after)
        self._checkpoints = Checkpoints(storage, "job", keep=2)


def test_a_run_killed_and_resumed_there_is_the_same_bit_for_bit(
    bucket: str, tmp_path: Path
) -> None:
    make_folder(tmp_path / "set", classes=2, images=9)
    spec = spec_for(epochs=3, checkpoint={"every_epochs": 1})
    whole = train(tmp_path, Recorder(tmp_path / "a"), spec)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, OnStore(bucket, tmp_path, killed_after=4), spec)
    torch.manual_seed(99)
    resumed = OnStore(bucket, tmp_path)
    assert_same(whole, train(tmp_path, resumed, spec))
    assert min(step for step, _ in resumed.points) > 4
    kept = Checkpoints(bucket, "job", 2).names()
    assert kept == ["step-00000004", "step-00000006"]
    Folder.of_job(bucket, "job").remove()
    assert Checkpoints(bucket, "job", 2).load() is None


def test_what_one_process_marks_another_sees(bucket: str) -> None:
    driver, worker = StopSignal(bucket, "job", 1), StopSignal(bucket, "job", 1)
    worker.training()
    with worker.watched():
        assert not worker.requested()
        driver.request()
        wait_until(worker.requested)
    driver.clear()


def test_a_sweeps_ledger_outlives_its_driver_there(bucket: str) -> None:
    ledger = Ledger(bucket, "sweep", Objective())
    ledger.add(Entry(number=0, parameters={"method.variance": 5}, epochs=2))
    ledger.started(ledger.entry(0))
    ledger.report(ledger.entry(0), 1, 0.5, "run")
    (entry,) = Ledger(bucket, "sweep", Objective()).entries()
    assert (entry.curve[1], entry.starts) == (0.5, 1)
