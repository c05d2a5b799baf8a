"""Training from shards in an object store: moto's S3, and a proxy before it that misbehaves."""

from __future__ import annotations

import http.server
import itertools
import os
import shutil
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3  # type: ignore[import-untyped]
import fsspec
import httpx
import pytest
import torch
from gcp_storage_emulator.server import create_server

from tests.integration.conftest import wait_until
from tests.object_store import CREDENTIALS, object_store_server
from tests.unit.selfsup.data.layouts.test_shards import JPEG, make, write
from tests.unit.selfsup.data.test_shared_memory import Usage
from tests.unit.selfsup.data.test_sources import batches_of, under
from tests.unit.selfsup.processes import Gloo
from tests.unit.selfsup.test_train import Recorder, spec_for, train
from vicreg_platform.specs import PretrainSpec, WebDatasetData
from vicreg_workers.selfsup.data.images import Images, unreadable
from vicreg_workers.selfsup.data.layouts import remote_files, shards
from vicreg_workers.selfsup.data.layouts.remote_files import BlockCache
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.errors import InvalidInput, Unreachable


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to an object store, unless it is told to misbehave."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = behind
        self.failing = 0
        """How many requests will be answered by 503."""
        self.hanging = threading.Event()
        """Set while requests for shards get no answer."""
        self.asked: list[str] = []
        """The paths of the requests for shards, with their ranges."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Passing(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        server = self.server
        if ".tar" in self.path and self.command == "GET":
            server.asked.append(f"{self.path} {self.headers.get('Range')}")
            while server.hanging.is_set():
                time.sleep(0.05)
            if server.failing > 0:
                server.failing -= 1
                self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                return
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("host", "connection", "accept-encoding")
        }
        answer = httpx.request(self.command, server.behind + self.path, headers=headers, timeout=30)
        self._answer(answer.status_code, dict(answer.headers), answer.content)

    do_HEAD = do_GET

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date"):
                self.send_header(name, value)
        length = headers.get("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with object_store_server() as address:
        yield address


@pytest.fixture
def proxy(moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    server = Proxy(moto)
    for name, value in ({"AWS_ENDPOINT_URL": server.url} | CREDENTIALS).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("VICREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "BLOCK", 2048)
    monkeypatch.setattr(remote_files, "FIRST_WAIT", 0.05)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield server
    server.hanging.clear()
    server.shutdown()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(proxy: Proxy, moto: str, tmp_path: Path) -> str:
    """A bucket with three shards of four images; the same shards lie in ``set`` on the disk."""
    make(tmp_path)
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket=name)
    for shard in (tmp_path / "set").iterdir():
        client.upload_file(str(shard), name, f"set/{shard.name}")
    return f"s3://{name}/set"


def open_remote(url: str) -> Images:
    """The images of shards that have been listed by another machine: nothing is in the cache."""
    spec = WebDatasetData(source="webdataset", shards=url)
    images = open_images(spec, under(Path("/nowhere")))
    shutil.rmtree(os.environ["VICREG_CACHE"])
    return images


@pytest.mark.parametrize("pattern", ["", "/train-{000..002}.tar"])
def test_images_in_a_store_are_those_on_the_disk(bucket: str, pattern: str, tmp_path: Path) -> None:
    remote = open_remote(bucket + pattern)
    local = open_images(WebDatasetData(source="webdataset", shards="set"), under(tmp_path))
    assert list(remote.labels) == list(local.labels)
    assert remote.name(7) == f"{bucket}/train-001.tar: 0007"
    for number in range(12):
        assert remote.read(number).tobytes() == local.read(number).tobytes()


def test_images_are_read_from_google_cloud_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path)
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    try:
        port = server._api._httpd.server_address[1]
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it asks Google itself
        monkeypatch.setenv("VICREG_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(remote_files, "BLOCK", 2048)
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        store = fsspec.filesystem("gs")
        for shard in (tmp_path / "set").iterdir():
            store.put_file(str(shard), f"bucket/set/{shard.name}")
        remote = open_remote("gs://bucket/set/train-{000..002}.tar")
        local = open_images(WebDatasetData(source="webdataset", shards="set"), under(tmp_path))
        assert list(remote.labels) == list(local.labels)
        for number in range(12):
            assert remote.read(number).tobytes() == local.read(number).tobytes()
        with pytest.raises(InvalidInput, match=r"cannot be read from the store: .*none.*train-000"):
            open_remote("gs://bucket/none/train-000.tar")
    finally:
        server.stop()
        fsspec.get_filesystem_class("gs").clear_instance_cache()


def test_google_cloud_storage_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once(_: float) -> None:
        """gcsfs asks six times, and waits up to 16 s between two."""

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=at_once))
    monkeypatch.setenv("VICREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    monkeypatch.setattr(remote_files, "ANSWER", 0.2)
    monkeypatch.setattr(remote_files, "PATIENCE", 0.0)
    refusals: list[Unreachable] = []

    def read() -> None:
        try:
            open_remote("gs://bucket/set/train-000.tar")
        except Unreachable as error:
            refusals.append(error)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{silent.getsockname()[1]}")
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        # A daemon: one that waits for ever fails this test and no more.
        reading = threading.Thread(target=read, daemon=True)
        reading.start()
        reading.join(30)
        fsspec.get_filesystem_class("gs").clear_instance_cache()
    (refusal,) = refusals
    assert "the store does not answer" in str(refusal)


def test_a_block_is_fetched_once_by_all_processes(bucket: str, proxy: Proxy) -> None:
    images = open_remote(bucket)
    proxy.asked.clear()
    batches = batches_of(images, 4, loaders=2)
    order = [batch.indices for epoch in range(3) for batch in batches.epoch(epoch)]
    assert sorted(itertools.chain.from_iterable(order)) == sorted([*range(12)] * 3)
    assert len(proxy.asked) == len(set(proxy.asked)) > 0


def test_a_store_that_is_busy_or_hangs_is_waited_for(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote_files, "ANSWER", 1)
    images = open_remote(bucket)
    proxy.failing = 7
    assert images.content(0) == JPEG[0]  # type: ignore[attr-defined]
    assert proxy.failing == 0
    assert "the store does not answer, asked again in" in caplog.text
    proxy.hanging.set()
    answers: list[bytes] = []
    reading = threading.Thread(target=lambda: answers.append(images.content(8)))  # type: ignore[attr-defined]
    reading.start()
    asked = len(proxy.asked)
    wait_until(lambda: len(proxy.asked) > asked + 1)  # it gave the first request up
    proxy.hanging.clear()
    reading.join(60)
    assert answers == [JPEG[8]]


def test_a_store_that_stays_away_is_no_fault_of_the_images(
    bucket: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is tried again: it does not skip image after image."""
    monkeypatch.setattr(remote_files, "PATIENCE", 0.3)
    images = open_remote(bucket)
    proxy.failing = 1_000_000
    with pytest.raises(Unreachable, match=r"data\.shards: the store does not answer"):
        next(batches_of(images, 4, loaders=1).epoch(0))


def test_a_shard_replaced_or_removed_in_the_store_loses_its_images_alone(
    bucket: str, moto: str, tmp_path: Path
) -> None:
    images = open_remote(bucket)
    client = boto3.client("s3", endpoint_url=moto)
    name = bucket.split("/")[2]
    write(tmp_path / "set" / "train-001.tar", {"other.jpg": JPEG[0]})
    client.upload_file(str(tmp_path / "set" / "train-001.tar"), name, "set/train-001.tar")
    client.delete_object(Bucket=name, Key="set/train-002.tar")
    batches = list(batches_of(images, 4).epoch(0))
    assert {index for batch in batches for index in batch.skipped} == set(range(4, 12))
    assert {index for batch in batches for index in batch.indices} == set(range(4))
    warnings = unreadable(images, range(4, 12))
    assert len(warnings) == 2, warnings
    replaced, removed = warnings
    assert "train-001.tar has been replaced since the training began" in replaced
    assert "left out 4 images" in removed
    assert "train-002.tar" in removed


def test_what_is_not_there_is_refused(bucket: str) -> None:
    for missing in (f"{bucket}/train-{{000..004}}.tar", "s3://no-such-bucket/set"):
        with pytest.raises(InvalidInput, match=r"^data\.shards: "):
            open_remote(missing)


def test_a_full_disk_costs_the_cache_and_no_more(
    bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BlockCache, "_make_room", full)
    images = open_remote(bucket)
    for number in range(12):
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]
    assert caplog.text.count("is not used ([Errno 28]") == 1


def test_a_fork_keeps_no_lock_of_its_parent(tmp_path: Path, proxy: Proxy) -> None:
    """Loaders are forked while threads fetch: a lock that lived on in one would never be free."""
    cache, inside, forked = BlockCache(), threading.Event(), threading.Event()

    def hold() -> None:
        with cache.locked("folder", "name"):
            inside.set()
            forked.wait()

    holding = threading.Thread(target=hold)
    holding.start()
    inside.wait()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with cache.locked("folder", "name"):
            os.write(write, b"free")
        os._exit(0)
    forked.set()
    holding.join()
    assert os.read(read, 4) == b"free"
    os.waitpid(child, 0)


def test_a_fork_writes_into_the_cache_while_a_thread_of_its_parent_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock that the thread has is not the fork's."""
    monkeypatch.setenv("VICREG_CACHE", str(tmp_path / "cache"))
    cache, counting, forked = BlockCache(), threading.Event(), threading.Event()

    def usage(folder: Path) -> Any:
        if threading.current_thread() is making_room:
            counting.set()
            forked.wait()
        return Usage(0, 0, 2**20)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    making_room = threading.Thread(target=cache.write, args=("folder", "parents", b"block"))
    making_room.start()
    counting.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends it if it waits for the lock
        cache.write("folder", "its.block", b"block")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    forked.set()
    making_room.join()
    assert os.waitstatus_to_exitcode(status) == 0
    assert cache.holds("folder", "its.block")


def test_a_block_that_a_crash_cut_off_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    images = open_remote(bucket)
    assert images.content(0) == JPEG[0]  # type: ignore[attr-defined]
    for block in (tmp_path / "cache").glob("*/*.block"):
        block.write_bytes(b"")
    assert images.content(0) == JPEG[0]  # type: ignore[attr-defined]


def test_blocks_that_are_wanted_again_are_not_fetched_again(bucket: str, proxy: Proxy) -> None:
    images = open_remote(bucket)
    proxy.asked.clear()
    for _ in range(50):
        images.will_read(range(12))
    wait_until(lambda: not images._files._queued)  # type: ignore[attr-defined]
    assert len(proxy.asked) == len(set(proxy.asked)) > 0


def test_a_store_that_is_busy_while_shards_are_listed_is_waited_for(
    bucket: str, proxy: Proxy
) -> None:
    proxy.failing = 3
    assert len(open_remote(bucket)) == 12
    assert proxy.failing == 0


def test_a_cache_that_others_can_write_is_not_used(
    bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    images = open_remote(bucket)
    assert images.content(3) == JPEG[3]  # type: ignore[attr-defined]
    assert "is not used (others may write into it)" in caplog.text
    assert list((tmp_path / "cache").glob("*/*.block")) == []


def test_without_a_cache_the_bytes_of_an_image_are_asked_for_alone(
    bucket: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_files, "BLOCK", 2**20)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    images = open_remote(bucket)
    proxy.asked.clear()
    assert images.content(3) == JPEG[3]  # type: ignore[attr-defined]
    (asked,) = proxy.asked
    first, last = asked.rpartition("bytes=")[2].split("-")
    assert int(last) - int(first) + 1 == len(JPEG[3])


def test_a_bound_that_is_no_number_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VICREG_CACHE_BYTES", "20GB")
    with pytest.raises(InvalidInput, match="VICREG_CACHE_BYTES is '20GB': it must be a number"):
        open_remote(bucket)


def test_the_cache_keeps_its_bound_and_what_was_used_last(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VICREG_CACHE_BYTES", str(4 * 2048))
    images = open_remote(bucket)
    for number in [*range(12), 0]:
        assert images.content(number) == JPEG[number]  # type: ignore[attr-defined]
        sizes = [block.stat().st_size for block in (tmp_path / "cache").glob("*/*.block")]
        assert 0 < sum(sizes) <= 4 * 2048


def test_a_training_killed_with_two_workers_goes_on_with_one(bucket: str, tmp_path: Path) -> None:
    """Losses within 1e-5, and each image once an epoch."""
    spec = _spec(bucket, workers=2)
    whole = Recorder(tmp_path / "whole")
    train(Path("/nowhere"), whole, _spec(bucket, workers=1))
    pool = Gloo(2)
    store = {name: value for name, value in os.environ.items() if name.startswith(("AWS", "VIC"))}
    pool.run(_killed, spec, tmp_path / "resumed", store)
    pool.close()
    resumed = Recorder(tmp_path / "resumed")
    train(Path("/nowhere"), resumed, _spec(bucket, workers=1))
    assert resumed.saved[-1] == whole.saved[-1]
    after = resumed.points[0][0]
    expected = [loss for step, loss in _losses(whole) if step >= after]
    assert [loss for _, loss in _losses(resumed)] == pytest.approx(expected, rel=1e-5)
    order = shards.Shards.order(open_remote(bucket), 4, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(12))


def _spec(url: str, workers: int) -> PretrainSpec:
    return spec_for(
        epochs=4,
        workers=workers,
        data={"source": "webdataset", "shards": url, "image_size": 16},
        training={"epochs": 4, "batch_size": 4, "warmup_epochs": 1},
        optimizer={"base_lr": 1e-5},
        checkpoint={"every_epochs": 1},
        watch={"knn_every_epochs": 0},
    )


def _killed(spec: PretrainSpec, storage: Path, store: dict[str, str]) -> None:
    os.environ.update(store)
    with pytest.raises(KeyboardInterrupt):
        train(Path("/nowhere"), Recorder(storage, killed_after=6), spec)


def _losses(recorder: Recorder) -> list[tuple[int, float]]:
    return [(step, each["train/loss"]) for step, each in recorder.points if "train/loss" in each]
