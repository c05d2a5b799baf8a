"""The environment, read once, as one frozen object."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vicreg_platform.cluster import Bundle, nodes_of


@dataclass(frozen=True)
class Settings:
    """Where everything is. Each field is the variable ``VICREG_<FIELD>`` in capitals."""

    database_url: str
    """SQLAlchemy URL: ``sqlite:////path/file.db`` or ``postgresql+psycopg://user@host/name``."""
    ray_url: str
    """Address of the Ray head's dashboard, which serves the Jobs API."""
    mlflow_url: str
    """Address of the MLflow server, as the platform and the workers reach it."""
    mlflow_public_url: str
    """Address of the MLflow server, as a user's browser reaches it."""
    storage: str
    """Where workers keep checkpoints: a path or an fsspec URL that all of them reach."""
    data_root: Path
    """Where workers find data; no spec's path can leave it."""
    ray_token: str | None = None
    """Ray's token, where the cluster asks for one (``RAY_AUTH_MODE=token``)."""
    ray_nodes: tuple[Bundle, ...] | None = None
    """The nodes of a cluster that scales, when it is at its largest, written as ``nodes_of`` reads
    them; default: those that are there."""
    api_key: str | None = None
    """The first API key, an administrator's; on a client, the key that it uses."""
    posts_per_minute: int = 120
    """How many POSTs a minute an API key may make."""
    metrics_port: int | None = None
    """Where the dispatcher serves its metrics for Prometheus; default: nowhere."""
    retry_backoff_seconds: float = 5.0
    """Wait before the second attempt; each further wait is twice as long, up to 5 minutes."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """The settings of this process; what is not set is as ``vicreg up`` has it."""
        given = os.environ if environment is None else environment
        home = Path(given.get("VICREG_HOME", ".vicreg")).absolute()
        mlflow_url = given.get("VICREG_MLFLOW_URL", "http://127.0.0.1:5000")
        return cls(
            database_url=given.get("VICREG_DATABASE_URL", f"sqlite:///{home}/platform.db"),
            ray_url=given.get("VICREG_RAY_URL", "http://127.0.0.1:8265"),
            ray_token=given.get("VICREG_RAY_TOKEN") or None,
            ray_nodes=nodes_of(given["VICREG_RAY_NODES"])
            if given.get("VICREG_RAY_NODES")
            else None,
            mlflow_url=mlflow_url,
            mlflow_public_url=given.get("VICREG_MLFLOW_PUBLIC_URL", mlflow_url),
            storage=given.get("VICREG_STORAGE", str(home / "storage")),
            data_root=Path(given.get("VICREG_DATA_ROOT", str(home / "data"))),
            api_key=given.get("VICREG_API_KEY") or None,
            posts_per_minute=int(given.get("VICREG_POSTS_PER_MINUTE", "120")),
            metrics_port=int(given["VICREG_METRICS_PORT"])
            if given.get("VICREG_METRICS_PORT")
            else None,
            retry_backoff_seconds=float(given.get("VICREG_RETRY_BACKOFF_SECONDS", "5")),
        )

    def environment(self) -> dict[str, str]:
        """The variables that make these settings in a child process."""
        return {
            "VICREG_DATABASE_URL": self.database_url,
            "VICREG_RAY_URL": self.ray_url,
            "VICREG_RAY_TOKEN": self.ray_token or "",
            "VICREG_MLFLOW_URL": self.mlflow_url,
            "VICREG_MLFLOW_PUBLIC_URL": self.mlflow_public_url,
            "VICREG_STORAGE": self.storage,
            "VICREG_DATA_ROOT": str(self.data_root),
            "VICREG_RETRY_BACKOFF_SECONDS": str(self.retry_backoff_seconds),
        }
