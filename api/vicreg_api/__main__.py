"""``python -m vicreg_api``: serve the API."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import resource

import uvicorn

from vicreg_api.app import MIGRATION_WAIT_SECONDS, create_app
from vicreg_api.services import Services
from vicreg_api.slow_clients import ImpatientProtocol
from vicreg_platform.errors import DatabaseTooNew, InvalidKey, PlatformError
from vicreg_platform.settings import Settings

GRACE_SECONDS = 3
"""How long open log streams may delay the server's exit."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def prepare(services: Services, first_key: str | None, host: str, loopback: bool) -> None:
    """Migrate the database and store the first key; require one if others can reach the API.

    Raises:
        InvalidKey: there is none, or the first does not have the form of a key.
        DatabaseUnavailable: the database was unreachable for a minute.
    """
    services.database.migrate(wait_seconds=MIGRATION_WAIT_SECONDS)
    if first_key is not None:
        services.keys.ensure(first_key)
    if not loopback and not services.keys.any_administrator():
        raise InvalidKey(
            f"others can reach {host}, and there is no administrator's API key: create one with "
            "`vicreg keys create --role admin --name …` while the API listens on 127.0.0.1, "
            "or set VICREG_API_KEY to the first one"
        )


def _raise_file_limit() -> None:
    """Every connection is a file handle: use all that this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Whether a line of the log is of a request other than the health checks'."""
    return "/healthz " not in record.getMessage()


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="vicreg_api", description="Serve the API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    loopback = is_loopback(arguments.host)
    try:
        settings = Settings.from_environment()
        services = Services.of(settings)
        prepare(services, settings.api_key, arguments.host, loopback)
    except DatabaseTooNew as error:
        parser.exit(1, f"vicreg_api: {error}\n")
    except PlatformError as error:
        parser.exit(2, f"vicreg_api: {error}\n")
    _raise_file_limit()
    logging.getLogger("uvicorn.access").addFilter(_is_no_probe)
    app = create_app(
        services,
        loopback=loopback,
        per_minute=settings.posts_per_minute,
        hosts=settings.api_hosts,
    )
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level="info",
        http=ImpatientProtocol,
        # X-Forwarded-For is believed of the addresses in FORWARDED_ALLOW_IPS alone.
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", ""),
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
