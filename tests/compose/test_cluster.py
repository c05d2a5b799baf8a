"""The cluster trains across containers, and survives the loss of any of them."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from mlflow.tracking import MlflowClient

from tests.compose.conftest import Cluster, brought_up
from tests.e2e.conftest import STEPS_PER_EPOCH, logged_steps
from tests.integration.conftest import wait_until
from vicreg_platform.client import ApiError, Client
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.states import JobState

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]
EPOCHS = 16
MORE_EPOCHS = 8
"""For each further fault of a training."""
AWAY_SECONDS = 20.0
CUT_OFF_SECONDS = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with brought_up() as made:
        yield made


def test_two_workers_in_different_containers_and_its_run_in_a_browser(cluster: Cluster) -> None:
    job = cluster.submit(
        name="spread",
        evaluations=[{"protocol": {"name": "knn"}}, {"protocol": {"name": "linear"}}],
    )
    ended = cluster.client.wait(job.id, timeout=420)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None)
    log = cluster.client.logs(job.id)
    ranks = re.findall(r"\(ip=([\d.]+), pid=\d+\) world_rank=\d", log)
    assert sorted(ranks) == sorted(cluster.addresses("ray-worker"))
    evaluations = [e for e in cluster.client.find_all(kind="evaluate") if e.depends_on == [job.id]]
    done = [cluster.client.wait(each.id, timeout=420) for each in evaluations]
    assert {each.state for each in done} == {JobState.SUCCEEDED}
    assert {"knn/top1", "linear/top1"} <= {name for each in done for name in each.summary}

    assert ended.mlflow is not None
    address, _, _ = ended.mlflow.url.partition("/#/")
    mlflow = MlflowClient(address)  # by the public address, as a browser would
    assert mlflow.get_run(ended.mlflow.run_id).info.status == "FINISHED"
    assert "encoder" in {file.path for file in mlflow.list_artifacts(ended.mlflow.run_id)}


def test_containers_can_change_and_do_little(cluster: Cluster) -> None:
    for name in cluster.compose("ps", "--quiet").split():
        (container,) = json.loads(cluster.docker("inspect", name))
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], container["Name"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["PidsLimit"] >= 1024
        assert host["Memory"] > 0


def sql(cluster: Cluster, statement: str, role: str = "vicreg", database: str = "vicreg") -> str:
    return cluster.docker(
        "exec", cluster.container("postgres"),
        "psql", "-U", role, "-d", database, "-v", "ON_ERROR_STOP=1", "-tAc", statement,
    )  # fmt: skip


def test_mlflow_can_do_nothing_to_the_platforms_database(cluster: Cluster) -> None:
    rights = "rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls"
    asked = f"SELECT {rights} FROM pg_roles WHERE rolname = 'mlflow'"
    assert sql(cluster, asked, "mlflow", "mlflow").strip() == "f"
    with pytest.raises(AssertionError, match="permission denied for database"):
        sql(cluster, "SELECT 1", "mlflow", "vicreg")


def test_a_network_is_compiled_in_the_image(cluster: Cluster) -> None:
    job = cluster.submit(
        name="compiled",
        resources={"workers": 1},
        training={"epochs": 1, "batch_size": 128, "compile": True},
    )
    ended = cluster.client.wait(job.id, timeout=420)
    log = cluster.client.logs(job.id)
    assert ended.state is JobState.SUCCEEDED, log
    assert "uncompiled" not in log


def kill(service: str) -> Callable[[Cluster], None]:
    """Kill a container; it is restarted at once, as its restart policy does after a crash."""

    def do(cluster: Cluster) -> None:
        cluster.docker("kill", cluster.container(service))
        cluster.docker("start", cluster.container(service))

    return do


def kill_for_a_while(service: str) -> Callable[[Cluster], None]:
    def do(cluster: Cluster) -> None:
        cluster.docker("kill", cluster.container(service))
        time.sleep(AWAY_SECONDS)
        cluster.docker("start", cluster.container(service))

    return do


def kill_agent(cluster: Cluster) -> None:
    """Kill the agent of a Ray node: the node then ends itself, and `ray start --block` does not.

    The health check ends the container after a while, and Docker restarts it.
    """
    container = cluster.container("ray-worker")

    def started() -> str:
        return cluster.docker("inspect", "--format", "{{.State.StartedAt}}", container)

    before = started()
    killed = cluster.docker(
        "exec", container, "python", "-c",
        "import psutil; [(each.kill(), print(each.pid)) for each in psutil.process_iter()"
        " if each.name() == 'ray::DashboardAgent']",
    )  # fmt: skip
    assert killed.split()
    wait_until(lambda: started() != before, seconds=240)


def cut_off(cluster: Cluster) -> None:
    network = "vicreg-test_vicreg"
    cluster.docker("network", "disconnect", "--force", network, cluster.container("ray-worker"))
    time.sleep(CUT_OFF_SECONDS)
    cluster.docker("network", "connect", network, cluster.container("ray-worker"))


def down_and_up(cluster: Cluster) -> None:
    cluster.compose("down", "--timeout", "30")
    cluster.up()


@dataclass(frozen=True)
class Fault:
    what: str
    do: Callable[[Cluster], None]
    attempts: int = 1
    """How many attempts the job may need."""


FAULTS = [
    (Fault("ray-worker killed", kill("ray-worker"), attempts=2),),
    (
        # What stops no training: one after the other, in one training.
        Fault("dispatcher killed", kill("dispatcher")),
        Fault("api killed", kill("api")),
        Fault("mlflow unreachable for 20 s", kill_for_a_while("mlflow")),
        Fault("postgres unreachable for 20 s", kill_for_a_while("postgres")),
    ),
    (Fault("ray-head killed", kill("ray-head"), attempts=2),),
    (Fault("ray-worker cut off for 60 s", cut_off, attempts=2),),
    (Fault("agent of ray-worker killed", kill_agent, attempts=2),),
    (Fault("down and up", down_and_up, attempts=2),),
]
"""By training."""


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """The table of docs/reliability.md."""
    rows: list[str] = []
    yield rows
    print("\n| fault | attempts | steps trained again | seconds until training resumed |")
    print("|---|---|---|---|", *rows, sep="\n")


@pytest.mark.parametrize("faults", FAULTS, ids=lambda some: some[0].what.replace(" ", "-"))
def test_training_resumes_after(
    cluster: Cluster, faults: tuple[Fault, ...], table: list[str]
) -> None:
    """Every step is logged once, by one live attempt at a time, whatever fails."""
    epochs = EPOCHS + MORE_EPOCHS * (len(faults) - 1)
    job = cluster.submit(name=faults[0].what, training={"epochs": epochs, "batch_size": 128})
    cluster.until(job.id, lambda view: view.progress and view.progress.epoch >= 2)
    measured = [(fault, *injected(cluster, job.id, fault)) for fault in faults]
    ended = cluster.client.wait(job.id, timeout=420)
    assert (ended.state, ended.reason) == (JobState.SUCCEEDED, None), cluster.client.logs(job.id)
    assert len(ended.attempts) <= max(fault.attempts for fault in faults)
    assert all(attempt.ended_at is not None for attempt in ended.attempts)
    points = [int(point["step"]) for point in cluster.client.metrics(job.id)["train/loss"]]
    assert points == logged_steps(epochs)
    resumed = re.findall(r"from the checkpoint after step (\d+)", logs(cluster, ended))
    for fault, at, seconds in measured:
        again = max(0, at - int(resumed[-1])) if resumed else 0
        table.append(f"| {fault.what} | {len(ended.attempts)} | {again} | {seconds:.0f} |")


def injected(cluster: Cluster, job_id: str, fault: Fault) -> tuple[int, float]:
    """Inject a fault into a running job.

    Returns:
        The step at which it was, and the seconds until it was an epoch further.
    """
    before = cluster.client.get(job_id)
    assert before.progress is not None
    at, since = before.progress.step, time.monotonic()
    unavailable: list[int] = []
    watching = threading.Event()
    watcher = threading.Thread(target=watch, args=(cluster, job_id, watching, unavailable))
    watcher.start()
    try:
        fault.do(cluster)
    finally:
        watching.set()
        watcher.join()
    # From an epoch that was not trained yet when the fault was injected.
    after = cluster.until(
        job_id, lambda view: view.progress and view.progress.step > at + STEPS_PER_EPOCH
    )
    seconds = time.monotonic() - since
    live = [attempt for attempt in after.attempts if attempt.ended_at is None]
    assert len(live) == (0 if after.ended else 1)
    if "postgres" in fault.what:
        assert 503 in unavailable
    return at, seconds


def test_every_secret_can_be_rotated(cluster: Cluster) -> None:
    """As docs/guides/upgrading.md says."""
    before = cluster.client
    for role, name in (("vicreg", "POSTGRES_PASSWORD"), ("mlflow", "MLFLOW_POSTGRES_PASSWORD")):
        sql(cluster, f"ALTER ROLE {role} PASSWORD 'another-one'")
        cluster.environment[name] = "another-one"
    cluster.environment["RAY_AUTH_TOKEN"] = "another-token-that-is-long-enough"
    cluster.environment["VICREG_API_KEY"] = f"vk_{'0' * 8}_{'another' * 6}"
    cluster.up()
    cluster.client = Client(
        before.url, wait_seconds=60.0, key=cluster.environment["VICREG_API_KEY"]
    )
    with pytest.raises(ApiError, match="key"):
        before.find(limit=1)
    job = cluster.submit(name="rotated", evaluations=[{"protocol": {"name": "knn"}}])
    assert cluster.client.wait(job.id, timeout=420).state is JobState.SUCCEEDED
    (evaluation,) = [
        e for e in cluster.client.find_all(kind="evaluate") if e.depends_on == [job.id]
    ]
    assert cluster.client.wait(evaluation.id, timeout=420).state is JobState.SUCCEEDED


def watch(cluster: Cluster, job_id: str, end: threading.Event, statuses: list[int]) -> None:
    """Poll the API throughout the fault; record every answer that is not a job."""
    import httpx

    headers = {"Authorization": f"Bearer {cluster.environment['VICREG_API_KEY']}"}
    while not end.wait(0.5):
        try:
            answer = httpx.get(
                f"{cluster.client.url}/v1/jobs/{job_id}", headers=headers, timeout=30
            )
        except httpx.TransportError:
            continue
        if not answer.is_success:
            assert answer.status_code != 503 or answer.headers["retry-after"]
            statuses.append(answer.status_code)


def logs(cluster: Cluster, job: JobSchema) -> str:
    """Of all attempts."""
    return "".join(cluster.client.logs(job.id, attempt=attempt.number) for attempt in job.attempts)
