"""How a driver connects to its Ray cluster."""

from __future__ import annotations

import ray

WORKER_COMMAND = "python -m vicreg_workers.ray_worker"
"""What Ray puts before the script of a worker, in place of ``python``."""


def connect(warm_start: bool) -> None:
    """Connect this process to the cluster that its environment names.

    Args:
        warm_start: whether the job's workers and trials may be forks of their nodes' warm
            processes.
    """
    environment = {"py_executable": WORKER_COMMAND} if warm_start else None
    ray.init(ignore_reinit_error=True, runtime_env=environment)
