"""Neighbours that accept and never answer, and clients that never finish: the API stays itself."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import text

from tests.fakes import FakeCluster, FakeTracking
from tests.integration.conftest import wait_until
from vicreg_api import slow_clients
from vicreg_api.app import create_app
from vicreg_api.services import Services
from vicreg_platform.cli.local import free_ports
from vicreg_platform.cluster import SubmissionState
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.loop import Dispatcher
from vicreg_platform.dispatch.service import QueueService
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.service import JobService
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.service import KeyService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.tracking import Tracking

DIGITS = {"kind": "pretrain", "data": {"source": "digits"}}


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def serve(app: FastAPI, **options: Any) -> Iterator[str]:
    (port,) = free_ports(1)
    config = uvicorn.Config(
        app, port=port, log_level="error", timeout_graceful_shutdown=1, **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def services(database_url: str, hanging: str, tmp_path: Path) -> Services:
    database = Database(database_url)
    database.migrate()
    jobs = JobService(database, tmp_path, hanging)
    return Services(
        database=database,
        cluster=RayCluster(hanging),
        tracking=Tracking(hanging),
        jobs=jobs,
        control=JobControl(database, jobs),
        queue=QueueService(database, Settings()),
        schedules=ScheduleService(database, jobs),
        keys=KeyService(database),
        storage=str(tmp_path),
    )


@pytest.fixture
def address(services: Services) -> Iterator[str]:
    yield from serve(create_app(services))


def took(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_those_who_wait_for_ray_take_no_thread_from_others(
    address: str, services: Services, tmp_path: Path
) -> None:
    job, _ = services.jobs.submit(DIGITS)
    settings = Settings(
        database_url="", ray_url="", mlflow_url="", storage=str(tmp_path), data_root=tmp_path
    )
    Dispatcher(services.database, FakeCluster(), FakeTracking(), settings).round()
    assert services.jobs.get(job.id).attempts  # its log is on the hanging Ray

    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=address, timeout=60, limits=limits) as http:

        def ask(path: str) -> None:
            with suppress(httpx.TimeoutException):
                http.get(path, timeout=3)

        paths = [f"/v1/jobs/{job.id}/logs?follow=true"] * 100
        paths += ["/readyz", f"/v1/jobs/{job.id}/logs", "/v1/cluster"] * 45
        with ThreadPoolExecutor(len(paths)) as pool:
            for path in paths:
                pool.submit(ask, path)
            time.sleep(1)  # all of them wait now
            assert took(lambda: http.get("/healthz").raise_for_status()) < 1
            assert took(lambda: http.get("/v1/jobs").raise_for_status()) < 2
        answer = http.get("/readyz")
        assert answer.status_code == 503
        assert answer.elapsed.total_seconds() < 6
        checks = answer.json()["checks"]
        assert (checks["database"], checks["dispatcher"]) == ("ok", "ok")
        assert "no answer within 5 s" in checks["ray"]


def test_a_locked_table_is_503_and_the_process_alive(address: str, services: Services) -> None:
    database = services.database
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has one writer at a time, and readers do not wait for it")
    with httpx.Client(base_url=address, timeout=60) as http, database.write() as session:
        session.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        with ThreadPoolExecutor(60) as pool:
            waiting = [pool.submit(http.get, "/v1/jobs") for _ in range(60)]
            time.sleep(1)
            assert took(lambda: http.get("/healthz").raise_for_status()) < 1
            answers = [each.result() for each in waiting]
        session.rollback()
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"database_unavailable"}
    assert httpx.get(f"{address}/v1/jobs").status_code == 200


def test_health_is_asked_by_head_too(address: str) -> None:
    assert httpx.head(f"{address}/healthz").status_code == 200
    assert httpx.head(f"{address}/readyz", timeout=30).status_code == 503


def test_a_hanging_mlflow_delays_no_start_no_stop_and_no_tick(
    services: Services, hanging: str, tmp_path: Path
) -> None:
    cluster = FakeCluster()
    settings = Settings(
        database_url="", ray_url="", mlflow_url=hanging, storage=str(tmp_path), data_root=tmp_path
    )
    first, _ = services.jobs.submit(DIGITS)
    dispatcher = Dispatcher(services.database, cluster, services.tracking, settings)
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()

    def state(job: str) -> JobState:
        return services.jobs.get(job).state

    try:
        wait_until(lambda: state(first.id) is JobState.STARTING, 10)
        cluster.set(f"{first.id}-1", SubmissionState.RUNNING)
        wait_until(lambda: state(first.id) is JobState.RUNNING, 10)  # its run is asked for now
        time.sleep(2)
        second, _ = services.jobs.submit(DIGITS)
        wait_until(lambda: state(second.id) is JobState.STARTING, 5)
        services.jobs.cancel(first.id)
        wait_until(lambda: cluster.stops, 5)
        spec = {"name": "s", "cron": "* * * * *", "job": DIGITS}
        schedule = services.schedules.create(spec)
        with services.database.write() as session:
            session.execute(text("UPDATE schedules SET next_tick = '2026-01-01 00:00:00+00:00'"))
        wait_until(lambda: services.schedules.get(schedule.id).last_run is not None, 5)
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def slow_app(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An app whose clients have 2 s for a request, and whose answer takes twice as long."""
    monkeypatch.setattr(slow_clients, "REQUEST_SECONDS", 2.0)
    app = FastAPI()

    async def pieces() -> AsyncIterator[str]:
        for _ in range(4):
            await asyncio.sleep(1)
            yield "piece "

    @app.post("/")
    async def post() -> StreamingResponse:
        return StreamingResponse(pieces())

    yield from serve(app, http=slow_clients.ImpatientProtocol)


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"],
    ids=["nothing", "half a head", "half a body"],
)
def test_a_request_that_is_never_finished_is_closed(slow_app: str, begun: bytes) -> None:
    url = httpx.URL(slow_app)
    assert url.port is not None
    clients = [socket.create_connection((url.host, url.port)) for _ in range(300)]
    for client in clients:
        client.sendall(begun)
        client.settimeout(10)
    assert httpx.post(slow_app, timeout=30).text == "piece " * 4  # longer than 2 s: all was sent
    for client in clients:
        with suppress(ConnectionResetError):
            while client.recv(4096):
                pass
        client.close()
