"""The entry point of a Ray job: ``python -m vicreg_workers.main ASSIGNMENT [--cold]``.

Runs the driver in a fork of this node's warm process if there is one; else here, leaving a warm
process to the jobs after it. With ``--cold``, always here.
"""

from __future__ import annotations

import sys

COLD = "--cold"


def main() -> None:
    """Run the attempt that the first argument describes, and exit as its driver does."""
    if COLD not in sys.argv:
        from vicreg_workers import warm_process

        warm_process.drive_if_there_is_one()
    from vicreg_workers.driver import drive

    drive(sys.argv[1])


if __name__ == "__main__":
    main()
