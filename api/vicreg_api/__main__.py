"""``python -m vicreg_api``: serve the API."""

from __future__ import annotations

import argparse

import uvicorn

from vicreg_api.app import create_app
from vicreg_api.services import Services
from vicreg_platform.settings import Settings

GRACE_SECONDS = 3
"""How long open log streams may hold up an ending server."""


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="vicreg_api", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    app = create_app(Services.of(Settings.from_environment()))
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level="info",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
