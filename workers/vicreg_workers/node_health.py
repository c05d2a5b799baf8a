"""``python -m vicreg_workers.node_health PORT/PATH…``: the health check of a Ray container.

Docker restarts no container for being unhealthy, and ``ray start --block`` lives on if its node
ends itself, as a node does whose agent was killed. This check ends the container's main process
when it has failed too often in a row, and the container's restart policy starts it again.
"""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

TIMEOUT_SECONDS = 4.0
"""For each address; two of them, and Python's start, fit into the check's 10 seconds."""
FAILURES = 12
"""In a row, of a node that was healthy: a minute if nothing listens, and three if it is silent."""
STARTING_FAILURES = 60
"""Of a node that has not been healthy yet."""


def check(addresses: list[str], count: Path, end: Callable[[], None]) -> bool:
    """Whether all addresses of this machine answer; ends the node if they have not for too long.

    Args:
        addresses: of HTTP on loopback, such as ``52365/api/local_raylet_healthz``.
        count: the file that says how many more failures are borne.
        end: ends the node.
    """
    # The file is empty if a check was killed as it wrote.
    left = int(count.read_text() or FAILURES) if count.exists() else STARTING_FAILURES
    # Before asking: the engine kills a check that takes too long, and that is a failure too.
    count.write_text(str(left - 1))
    try:
        for address in addresses:
            urllib.request.urlopen(f"http://127.0.0.1:{address}", timeout=TIMEOUT_SECONDS).close()
    except OSError as error:
        print(f"{address}: {error}; failures until the node is ended: {max(0, left - 1)}")
        if left <= 1:
            end()
        return False
    count.write_text(str(FAILURES))
    return True


def end_container() -> None:
    """Kill the main process of this container: its init ends with it.

    Raises:
        RuntimeError: this is no container that Docker has started with ``init: true``.
    """
    if Path("/proc/1/comm").read_text().strip() != "docker-init":
        raise RuntimeError("process 1 is not Docker's init")
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except FileNotFoundError:  # it has ended
            continue
        if parent == 1:
            os.kill(int(status.parent.name), signal.SIGKILL)


def _boot() -> str:
    """What tells one start of the container from the others; its /tmp outlives them."""
    return Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]


def main() -> None:
    """Exit with 1 unless the node is healthy."""
    healthy = check(sys.argv[1:], Path(f"/tmp/node-health-{_boot()}"), end_container)
    sys.exit(0 if healthy else 1)


if __name__ == "__main__":
    main()
