"""How long a user waits for a job: phase by phase, beside bare Ray, and warm beside cold.

``python -m tests.benchmarks.startup`` starts ``vicreg up`` in a folder of its own and prints three
tables: what a user waits for (medians of rounds), the phases of a training of two workers, and
drivers started with and without the node's warm process.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from mlflow.tracking import MlflowClient

from vicreg_platform.cli.local import LocalOptions, LocalPlatform, free_ports
from vicreg_platform.client import Client
from vicreg_platform.cluster import Submission, SubmissionState
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.cluster.submission import NOTHING, submission_of
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.ids import new_id
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.states import JobState
from vicreg_platform.specs import parse_spec

ROUNDS = 5
LOOK_SECONDS = 0.05
"""A pause while something is waited for."""
BACKBONE = {"name": "resnet10", "stem": "cifar"}
DIGITS = {"source": "digits", "image_size": 8}
EVALUATION: dict[str, Any] = {
    "kind": "evaluate",
    "encoder": {"untrained": BACKBONE},
    "protocol": {"name": "knn"},
    "data": {"train": DIGITS, "test": DIGITS | {"split": "test"}},
}
TRAINING: dict[str, Any] = {
    "kind": "pretrain",
    "backbone": BACKBONE,
    "expander": {"layers": [64, 64]},
    "data": DIGITS,
    "training": {"epochs": 1, "batch_size": 128, "warmup_epochs": 0},
}
TWO_WORKERS = TRAINING | {"resources": {"workers": 2}}
LONG = TWO_WORKERS | {"training": {"epochs": 500, "batch_size": 128}}
SWEEP: dict[str, Any] = {
    "kind": "sweep",
    "base": TRAINING | {"resources": {"cpus_per_worker": 2}},
    "space": {"method.variance": {"grid": [5, 25]}},
    "search": {"algorithm": "grid", "trials": 2},
    "scheduler": {"name": "fifo"},
    "objective": {"metric": "train/loss", "mode": "min"},
}
WORKER = "ray::RayTrainWorker"
BARE = Path(__file__).with_name("bare_training.py")
COMPARED = {"evaluation": EVALUATION, "training of 11 steps, one worker": TRAINING}
Seconds = dict[str, list[float]]


class Waits:
    """What a user waits for on a platform that is up, in seconds.

    Args:
        platform: with two CPUs.
        client: of its API.
    """

    def __init__(self, platform: LocalPlatform, client: Client) -> None:
        self._client = client
        self._cluster = RayCluster(platform.ray_url, platform.settings.ray_token)
        self._mlflow = MlflowClient(platform.mlflow_url)
        self._home = Path(platform.settings.home)
        self.waits: Seconds = defaultdict(list)
        self.phases: Seconds = defaultdict(list)

    def round(self) -> None:
        """Wait for everything once."""
        self.starts()
        self._fault()
        self._sweep()

    def starts(self) -> None:
        """Wait once for bare Ray's first step, for trainings and for an evaluation."""
        self.waits["bare Ray, two workers: submission to first step"].append(self._bare())
        two = self._training("two workers", TWO_WORKERS)
        moments = list(two.attempts[0].moments().items())
        for (_, before), (name, at) in itertools.pairwise(moments):
            self.phases[name.replace("_", " ")].append((at - before).total_seconds())
        self._training("one worker", TRAINING)
        since = time.time()
        ended = self._ended(self._client.submit(EVALUATION))
        self.waits["evaluation (kNN): POST to succeeded"].append(_age(since, ended.finished_at))

    def _bare(self) -> float:
        file = self._home / "first-step"
        file.unlink(missing_ok=True)
        name = new_id()
        since = time.time()
        self._cluster.submit(Submission(name, ("python", str(BARE), str(file)), NOTHING))
        while self._cluster.submissions()[name].live:
            time.sleep(LOOK_SECONDS)
        assert file.exists(), self._cluster.last_lines(name, 50)
        # Ray says for some seconds more that it occupies the cluster.
        while self._cluster.capacity().used.cpus:
            time.sleep(LOOK_SECONDS)
        return float(file.read_text()) - since

    def _training(self, name: str, spec: dict[str, Any]) -> JobSchema:
        since = time.time()
        ended = self._ended(self._client.submit(spec))
        while ended.attempts[0].archived_at is None:
            time.sleep(LOOK_SECONDS)
            ended = self._client.get(ended.id)
        timeline = ended.attempts[0].timeline
        assert timeline is not None
        self.waits[f"{name}: POST to first step"].append(_age(since, timeline.first_step))
        self.waits[f"{name}, one epoch: POST to succeeded"].append(_age(since, ended.finished_at))
        return ended

    def _fault(self) -> None:
        """Kill a worker of a long training, then cancel it."""
        job = self._client.submit(LONG)
        before = self._first_step(job.id, None)
        while (progress := self._client.get(job.id).progress) is None or progress.epoch < 1:
            time.sleep(LOOK_SECONDS)
        since = time.time()
        _workers()[-1].kill()
        after = self._first_step(job.id, before)
        self.waits["killed worker to next step"].append(after.timestamp() - since)
        since = time.time()
        self._client.cancel(job.id)
        while _workers():
            time.sleep(LOOK_SECONDS)
        self.waits["cancel to workers gone"].append(time.time() - since)
        self._client.wait(job.id)

    def _first_step(self, job_id: str, but: datetime | None) -> datetime:
        while True:
            job = self._client.get(job_id)
            assert not job.ended, (job.reason, self._client.logs(job_id))
            timeline = job.attempts[0].timeline if job.attempts else None
            if timeline is not None and timeline.first_step not in (None, but):
                assert timeline.first_step is not None
                return timeline.first_step
            time.sleep(LOOK_SECONDS)

    def _sweep(self) -> None:
        job = self._ended(self._client.submit(SWEEP))
        first, second = (
            self._mlflow.get_run(trial.mlflow.run_id).info
            for trial in self._client.trials(job.id, sort="number").items
        )
        self.waits["sweep: end of a trial to start of the next"].append(
            (second.start_time - first.end_time) / 1000
        )

    def _ended(self, job: JobSchema) -> JobSchema:
        ended = self._client.wait(job.id)
        assert ended.state is JobState.SUCCEEDED, (ended.reason, self._client.logs(job.id))
        return ended


def _workers() -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if WORKER in " ".join(process.info["cmdline"] or ())
    ]


def _age(since: float, moment: datetime | None) -> float:
    assert moment is not None
    return moment.timestamp() - since


def submission(platform: LocalPlatform, job: dict[str, Any], warm: bool) -> Submission:
    """An attempt of a job, as the dispatcher makes it."""
    job_id = new_id()
    assignment = Assignment(
        job_id=job_id,
        attempt=1,
        spec=parse_spec(job),
        tracking_uri=platform.settings.mlflow_url,
        storage=platform.settings.storage,
        data_root=str(platform.settings.data_root),
        warm_start=warm,
    )
    return submission_of(assignment, f"{job_id}-1")


def seconds_of(cluster: RayCluster, submitted: Submission) -> float:
    """How long a driver takes from its submission to its end."""
    since = time.perf_counter()
    cluster.submit(submitted)
    while (status := cluster.submissions()[submitted.id]).live:
        time.sleep(LOOK_SECONDS)
    assert status.state is SubmissionState.SUCCEEDED, cluster.last_lines(submitted.id, 50)
    return time.perf_counter() - since


def warm_and_cold(platform: LocalPlatform, rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each driver, warm and cold."""
    cluster = RayCluster(platform.ray_url, platform.settings.ray_token)
    medians = {}
    for name, job in COMPARED.items():
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for warm in (True, False):
                times[warm].append(seconds_of(cluster, submission(platform, job, warm)))
        medians[name] = statistics.median(times[True]), statistics.median(times[False])
    return medians


def _table(title: str, seconds: Seconds) -> None:
    print(f"| {title} | median, s | from–to |\n|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {min(times):.1f}–{max(times):.1f} |")
    print()


def _ready(rounds: int, report: Callable[[float], None]) -> None:
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            since = time.time()
            platform = _platform(Path(folder))
            platform.start()
            report(time.time() - since)
            platform.end()


def _platform(home: Path) -> LocalPlatform:
    api, mlflow = free_ports(2)
    return LocalPlatform(LocalOptions(home / "home", home, api, mlflow, cpus=2))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} rounds, {psutil.cpu_count()} CPUs\n")
    ready: list[float] = []
    _ready(rounds, ready.append)
    with tempfile.TemporaryDirectory() as folder:
        platform = _platform(Path(folder))
        platform.start()
        try:
            # The first ones wait for the warm process.
            warm_and_cold(platform, 1)
            with Client(platform.api_url, key=platform.settings.api_key) as client:
                waits = Waits(platform, client)
                for _ in range(rounds):
                    waits.round()
            waits.waits["vicreg up: to ready"] = ready
            _table("a user waits for", waits.waits)
            _table("phase of a training of 11 steps, two workers", waits.phases)
            print("| driver | warm, s | cold, s | warm, of cold |\n|---|---|---|---|")
            for name, (warm, cold) in warm_and_cold(platform, rounds).items():
                print(f"| {name} | {warm:.1f} | {cold:.1f} | {warm / cold:.2f} |")
        finally:
            platform.end()


if __name__ == "__main__":
    main()
