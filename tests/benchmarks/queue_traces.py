"""Jobs as users submit them, for ``tests.benchmarks.queue_policies``.

``published`` makes up jobs from the published statistics of two clusters:

- Philly: Jeon et al., "Analysis of Large-Scale Multi-Tenant GPU Clusters for DNN Training
  Workloads", USENIX ATC 2019, with the notebook of https://github.com/msr-fiddle/philly-traces.
- Helios: Hu et al., "Characterization and Prediction of Deep Learning Workloads in Large-Scale GPU
  Datacenters", SC 2021, with the notebooks of
  https://github.com/S-Lab-System-Group/HeliosArtifact.

What the figures show was read off them, to two digits. What neither says is marked as chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOUR = 3600.0
DAY = 24 * HOUR
GPUS = 64
"""Of the simulated cluster."""

SIZES = {1: 0.72, 2: 0.04, 4: 0.07, 8: 0.13, 16: 0.0367, 32: 0.003, 64: 0.0003}
"""GPUs, and the share of jobs that ask for them.

Helios, figure 6 (a), as the mean of the four clusters by their numbers of GPU jobs: 72 % have one
GPU, 82 % at most 4, 93 % at most 8, 97 % at most 16, 99 % at most 32. Chosen: fewer of the last two
sizes, which on 64 GPUs are half of the cluster and all of it.
"""

RUN_MINUTES = {
    1: (
        (0.0, 0.1), (0.04, 0.5), (0.1, 1.0), (0.22, 1.3), (0.3, 4.0), (0.4, 11.0), (0.5, 20.0),
        (0.6, 32.0), (0.7, 45.0), (0.82, 100.0), (0.9, 250.0), (0.96, 1000.0), (0.99, 10_000.0),
        (1.0, 20_000.0),
    ),
    4: (
        (0.0, 0.1), (0.1, 0.4), (0.23, 1.0), (0.3, 3.5), (0.37, 10.0), (0.48, 25.0), (0.55, 100.0),
        (0.6, 230.0), (0.73, 1000.0), (0.85, 2500.0), (0.97, 10_000.0), (1.0, 40_000.0),
    ),
    8: (
        (0.0, 0.1), (0.08, 1.0), (0.14, 4.0), (0.22, 10.0), (0.3, 25.0), (0.44, 100.0),
        (0.5, 200.0), (0.58, 300.0), (0.68, 1000.0), (0.82, 3500.0), (0.94, 10_000.0),
        (1.0, 40_000.0),
    ),
    64: (
        (0.0, 0.1), (0.05, 0.6), (0.12, 1.0), (0.16, 3.0), (0.25, 10.0), (0.37, 40.0),
        (0.47, 100.0), (0.52, 220.0), (0.63, 300.0), (0.76, 1000.0), (0.88, 3500.0),
        (0.97, 10_000.0), (1.0, 40_000.0),
    ),
}  # fmt: skip
"""By the most GPUs for which it holds: the share of jobs that run no longer than so many minutes.

Philly, figure 2. Chosen: the last of each, since the figure ends at 10,000 minutes.
"""

ARRIVALS = (
    326, 305, 247, 215, 205, 199, 196, 184, 201, 292, 404, 448,
    434, 442, 482, 518, 544, 490, 398, 430, 476, 444, 413, 395,
)  # fmt: skip
"""Jobs that arrive in each hour of the day: Helios, figure 2 (b), the sum of the four clusters."""

USERS = 40
"""Chosen."""
USER_EXPONENT = 1.2
"""The share of the user of rank r is r to the power of minus this.

Chosen so that the busiest 5 % have about half of the GPU time: 45 to 60 % in Helios, figure 8 (a).
"""

# Chosen, all of what follows.
LOAD = 0.9
"""GPU time of all jobs, as a share of what the cluster has in the time of their arrivals."""
SHORTEST = 30.0
"""Seconds that a job runs at least."""
ADVERSARIAL_HOURS = 12
FLOOD = 500
"""Jobs."""
TOGETHER = 4.0
"""Jobs of one kind that a user submits at once, in the mean."""
ALONE = 32
"""Jobs of so many GPUs or more come one by one."""
HIGH, LOW = 0.1, 0.2
"""Shares of jobs of higher and of lower priority."""
PREEMPTIBLE = 0.6
ELASTIC = 0.15
"""They can run with half of the GPUs and with twice as many."""
LIMITED = 0.3
"""The share of jobs with a ``max_runtime``: between 1.2 and 3 times what they take."""


@dataclass(frozen=True)
class Submitted:
    """A job as its user submits it."""

    id: str
    """Ids sort by age."""
    user: str
    at: float
    gpus: int
    runtime: float
    """Seconds that it takes with ``gpus``."""
    priority: int = 0
    preemptible: bool = False
    sizes: tuple[int, ...] = ()
    """The numbers of GPUs that it can run with; empty if only with ``gpus``."""
    max_runtime: float | None = None


def published(days: float, count: int, seed: int = 0) -> list[Submitted]:
    """Jobs with the published statistics, their run times scaled by one factor to the load."""
    random = np.random.default_rng(seed)
    gpus = random.choice(list(SIZES), p=list(SIZES.values()), size=count)
    batch = _batches(random, gpus)
    batches = int(batch[-1]) + 1
    # All of a batch are like its first.
    gpus = gpus[np.unique(batch, return_index=True)[1]][batch]
    at = _arrivals(random, days, batches)[batch]
    rank = np.arange(1, USERS + 1)
    weights = rank**-USER_EXPONENT
    user = random.choice(rank, p=weights / weights.sum(), size=batches)[batch]
    priority = random.choice([1, 0, -1], p=[HIGH, 1 - HIGH - LOW, LOW], size=batches)[batch]
    preemptible = random.random(batches)[batch] < PREEMPTIBLE
    elastic = random.random(batches)[batch] < ELASTIC
    limited = random.random(batches)[batch] < LIMITED
    allowance = random.uniform(1.2, 3.0, batches)[batch]
    runtime = _scaled(_run_seconds(random, gpus), gpus, LOAD * GPUS * days * DAY)
    jobs = []
    for n in range(count):
        own = int(gpus[n])
        sizes = sorted({max(1, own // 2), own, min(GPUS, 2 * own)}) if elastic[n] else []
        # A job that shrinks must not run into its limit.
        longest = float(runtime[n]) * (own / sizes[0] if sizes else 1)
        jobs.append(
            Submitted(
                id=f"{n:06}",
                user=f"user {int(user[n]):02}",
                at=float(at[n]),
                gpus=own,
                runtime=float(runtime[n]),
                priority=int(priority[n]),
                preemptible=bool(preemptible[n]),
                sizes=tuple(sizes),
                max_runtime=float(allowance[n]) * longest if limited[n] else None,
            )
        )
    return jobs


def _batches(random: np.random.Generator, gpus: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of the batch that each job is of."""
    alone = gpus >= ALONE
    first = (random.random(len(gpus)) < 1 / TOGETHER) | alone | np.roll(alone, 1)
    first[0] = False
    return np.cumsum(first, dtype=np.int64)


def _arrivals(random: np.random.Generator, days: float, batches: int) -> NDArray[np.float64]:
    hours = int(np.ceil(24 * days))
    weights = np.resize(np.array(ARRIVALS, dtype=float), hours)
    hour = random.choice(hours, p=weights / weights.sum(), size=batches)
    return np.sort((hour + random.random(batches)) * HOUR)


def _run_seconds(random: np.random.Generator, gpus: NDArray[np.int64]) -> NDArray[np.float64]:
    share = random.random(len(gpus))
    seconds = np.zeros(len(gpus))
    least = 0
    for most, known in RUN_MINUTES.items():
        shares, minutes = zip(*known, strict=True)
        these = (gpus > least) & (gpus <= most)
        seconds[these] = 60 * np.exp(np.interp(share[these], shares, np.log(minutes)))
        least = most
    return seconds


def _scaled(
    seconds: NDArray[np.float64], gpus: NDArray[np.int64], wanted: float
) -> NDArray[np.float64]:
    """Run times in the same ratios, except for the shortest, that add up to GPU-seconds."""
    scaled = seconds
    for _ in range(10):
        scaled = np.maximum(SHORTEST, scaled * (wanted / float(gpus @ scaled)))
    return scaled


def flood(seed: int = 0) -> list[Submitted]:
    """One user submits ``FLOOD`` jobs at once; nine others go on, with half of the cluster."""
    random = np.random.default_rng(seed)
    jobs = [(HOUR, "flooding", 1, 1200.0)] * FLOOD
    jobs += _stream(random, load=0.5)
    return _numbered(jobs, random)


def whole_cluster(seed: int = 0) -> list[Submitted]:
    """One job needs all 64 GPUs, among small ones that could use the cluster without end."""
    random = np.random.default_rng(seed)
    jobs = _stream(random, load=1.0)
    jobs.append((2 * HOUR, "large", GPUS, 1800.0))
    return _numbered(jobs, random)


def storms(seed: int = 0) -> list[Submitted]:
    """Every two hours, forty jobs of higher priority; jobs of hours fill the cluster beneath."""
    random = np.random.default_rng(seed)
    beneath = [
        (float(at), f"user {n % 9}", 8, 3 * HOUR)
        for n, at in enumerate(np.sort(random.uniform(0, ADVERSARIAL_HOURS * HOUR, 28)))
    ]
    storm = [
        (hour * HOUR, "storm", 2, 600.0)
        for hour in range(1, ADVERSARIAL_HOURS, 2)
        for _ in range(40)
    ]
    return _numbered(beneath + storm, random)


_Unnumbered = tuple[float, str, int, float]
"""When a job arrives, its user, its GPUs and its seconds."""


def _stream(random: np.random.Generator, load: float) -> list[_Unnumbered]:
    """Small jobs of nine users."""
    until = ADVERSARIAL_HOURS * HOUR
    mean_gpus, mean_seconds = 1.8, 900.0
    count = int(load * GPUS * until / (mean_gpus * mean_seconds))
    return [
        (
            float(random.uniform(0, until)),
            f"user {random.integers(9)}",
            int(random.choice([1, 2, 4], p=[0.5, 0.35, 0.15])),
            SHORTEST + float(random.exponential(mean_seconds - SHORTEST)),
        )
        for _ in range(count)
    ]


def _numbered(jobs: list[_Unnumbered], random: np.random.Generator) -> list[Submitted]:
    """By age. All may be preempted, and a third have a limit."""
    return [
        Submitted(
            id=f"{n:06}",
            user=user,
            at=at,
            gpus=gpus,
            runtime=seconds,
            priority=int(user == "storm"),
            preemptible=user != "storm",
            max_runtime=float(random.uniform(1.2, 3)) * seconds if random.random() < 0.3 else None,
        )
        for n, (at, user, gpus, seconds) in enumerate(sorted(jobs))
    ]
