"""``python -m vicreg_platform.cli.mlflow_server``: ``mlflow server``, in one process.

MLflow's command imports MLflow, and then starts uvicorn, which imports it again: half of its start.
Here uvicorn runs in the process of the command. An MLflow (3.17 was tried) that starts its server
in another way does so.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn  # before MLflow, which knows by it that it is imported by a server


def main() -> None:
    """Serve until told to stop; the arguments are those of ``mlflow server``."""
    import mlflow.server
    from mlflow.cli import cli

    def serve_here(command: Sequence[str], extra_env: Mapping[str, str], **_: Any) -> None:
        os.environ.update(extra_env)
        uvicorn.main(list(command[command.index("uvicorn") + 1 :]))

    mlflow.server._exec_cmd = serve_here
    # `vicreg up` asks every few seconds.
    logging.getLogger("uvicorn.access").addFilter(
        lambda record: '"GET /health HTTP' not in record.getMessage()
    )
    cli(["server", *sys.argv[1:]])


if __name__ == "__main__":
    main()
