"""A process that Ray starts for a job's workers or trials.

``python -m vicreg_workers.ray_worker SCRIPT ARGUMENTS`` runs Ray's script in a fork of the node's
warm process if there is one; else in this process, leaving a warm process to those after it.
"""

from __future__ import annotations

import os
import sys

from vicreg_workers import warm_process


def main() -> None:
    """Be the worker that the arguments describe."""
    warm_process.fork_if_there_is_one("ray worker")
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
