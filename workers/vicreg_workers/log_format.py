"""The format of what drivers and workers log."""

from __future__ import annotations

import logging
import sys


def configure_logging() -> None:
    """Log one line per event to standard error; of libraries, only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("vicreg_workers").setLevel(logging.INFO)
