"""How drivers and workers print."""

from __future__ import annotations

import logging
import sys


def configure_logging() -> None:
    """One line an event on standard error; libraries speak only of trouble."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    logging.getLogger().handlers = [handler]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("vicreg_workers").setLevel(logging.INFO)
