"""The entry point of a Ray job: ``python -m vicreg_workers.main ASSIGNMENT``.

Runs the driver in a fork of this node's warm process if there is one; else here, leaving a warm
process to the jobs after it. With ``warm_start: false``, always here.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Run the attempt that the argument describes, and exit as its driver does."""
    # A dispatcher of the version before does not say it.
    if json.loads(sys.argv[1]).get("warm_start", True):
        from vicreg_workers import warm_process

        warm_process.fork_if_there_is_one("driver")
    from vicreg_workers.driver import drive

    drive(sys.argv[1])


if __name__ == "__main__":
    main()
