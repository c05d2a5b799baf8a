"""What a warm process saves a job: an evaluation and a short training, started warm and cold.

Starts ``vicreg up`` in a folder of its own, and submits drivers to its Ray in turn, with and
without the node's warm process. Prints seconds from the submission to the driver's end, and their
ratio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vicreg_platform.cli.local import LocalOptions, LocalPlatform, free_ports
from vicreg_platform.cluster import Submission, SubmissionState
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.cluster.submission import submission_of
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.ids import new_id
from vicreg_platform.specs import parse_spec

ROUNDS = 5
BACKBONE = {"name": "resnet10", "stem": "cifar"}
DIGITS = {"source": "digits", "image_size": 16}
JOBS: dict[str, dict[str, Any]] = {
    "evaluation": {
        "kind": "evaluate",
        "encoder": {"untrained": BACKBONE},
        "protocol": {"name": "knn"},
        "data": {"train": DIGITS, "test": DIGITS | {"split": "test"}},
    },
    "training of 11 steps, one worker": {
        "kind": "pretrain",
        "backbone": BACKBONE,
        "expander": {"layers": [64, 64]},
        "data": DIGITS,
        "training": {"epochs": 1, "batch_size": 128, "warmup_epochs": 0},
    },
}


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
        time.sleep(0.05)
    assert status.state is SubmissionState.SUCCEEDED, cluster.last_lines(submitted.id, 50)
    return time.perf_counter() - since


def measure(
    platform: LocalPlatform, rounds: int, report: Callable[[str], None] = print
) -> dict[str, tuple[float, float]]:
    """The median seconds of each job, warm and cold."""
    cluster = RayCluster(platform.ray_url, platform.settings.ray_token)
    # It leaves the warm process; the time until that one listens is not measured.
    seconds_of(cluster, submission(platform, JOBS["evaluation"], warm=True))
    seconds_of(cluster, submission(platform, JOBS["evaluation"], warm=False))
    medians = {}
    for name, job in JOBS.items():
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(rounds):
            for warm in (True, False):
                times[warm].append(seconds_of(cluster, submission(platform, job, warm)))
        medians[name] = statistics.median(times[True]), statistics.median(times[False])
        warm_one, cold_one = medians[name]
        report(f"| {name} | {warm_one:.1f} s | {cold_one:.1f} s | {warm_one / cold_one:.2f} |")
    return medians


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        api, mlflow = free_ports(2)
        platform = LocalPlatform(LocalOptions(home / "home", home, api, mlflow, cpus=2))
        platform.start()
        try:
            print("| job | warm | cold | ratio |\n|---|---|---|---|")
            measure(platform, ROUNDS)
        finally:
            platform.end()


if __name__ == "__main__":
    main()
