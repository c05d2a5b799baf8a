"""The settings of a process: environment variables, read once into one frozen object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from vicreg_platform.cluster import nodes_of
from vicreg_platform.errors import InvalidSettings
from vicreg_platform.needs import Bundle

PREFIX = "VICREG_"


def sqlite_url(file: Path) -> str:
    """The SQLAlchemy URL (2.1 and later) of a SQLite file, whatever its path holds."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def _nodes(value: object) -> object:
    return nodes_of(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(name.strip().lower() for name in value.split(",") if name.strip())


def _http_url(value: str | None) -> str | None:
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable():
        raise ValueError("Input should be a URL such as https://host/path")
    _ = parts.port  # raises if it is none
    return value


class Settings(BaseSettings):
    """The settings of a process. Each field is the variable ``VICREG_<FIELD>``, in capitals.

    An empty variable is the same as none.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    home: Annotated[Path, AfterValidator(Path.absolute)] = Path(".vicreg")
    """Where ``vicreg up`` keeps everything, and the default location of other settings."""
    database_url: str = Field(
        default_factory=lambda given: sqlite_url(given["home"] / "platform.db")
    )
    """SQLAlchemy URL: ``sqlite:////path/file.db`` or ``postgresql+psycopg://user@host/name``.
    Default: a SQLite file in the home."""
    ray_url: str = "http://127.0.0.1:8265"
    """Address of the Ray head's dashboard, which serves the Jobs API."""
    ray_token: str | None = Field(default=None, repr=False)
    """Ray's token, if the cluster requires one (``RAY_AUTH_MODE=token``)."""
    ray_nodes: Annotated[tuple[Bundle, ...] | None, NoDecode, BeforeValidator(_nodes)] = None
    """The nodes of an autoscaling cluster at its largest, written as ``COUNTxCPUS`` or
    ``COUNTxCPUSxGPUS`` with commas: ``8x4,2x16x1``. Default: the nodes that are up."""
    mlflow_url: str = "http://127.0.0.1:5000"
    """Address of the MLflow server, as the platform and the workers reach it."""
    mlflow_public_url: str = Field(default_factory=lambda given: given["mlflow_url"])
    """Address of the MLflow server, as a user's browser reaches it. Default: the same."""
    storage: str = Field(default_factory=lambda given: f"{given['home']}/storage")
    """Where workers keep checkpoints: a path or an fsspec URL that all of them reach. Default: a
    folder in the home."""
    data_root: Path = Field(default_factory=lambda given: Path(given["home"]) / "data")
    """Where workers find data; no path of a spec can leave it. Default: a folder in the home."""
    api_key: str | None = Field(default=None, repr=False)
    """Of the API: the first key, an administrator's. Of a client: the key that it uses."""
    api_hosts: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_names)] = None
    """Names by which clients may call the API, with commas. Default: those of this machine
    (``localhost``, ``127.0.0.1``) if it listens on loopback, else any: all clients need a key."""
    posts_per_minute: int = Field(default=120, ge=1)
    """How many requests per minute that change something (POST, PATCH, DELETE) an API key may
    make."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """The port on which the dispatcher serves Prometheus metrics. Default: none."""
    webhook_url: Annotated[str | None, AfterValidator(_http_url)] = Field(default=None, repr=False)
    """URL to which the dispatcher POSTs events: jobs that ended, and problems found in trainings.
    Default: none."""
    webhook_secret: str | None = Field(default=None, repr=False)
    """Key with which the dispatcher signs those events."""
    warm_start: bool = True
    """Whether drivers, workers and trials are forks of a process that each Ray node keeps and that
    has already imported torch and MLflow, so they start seconds sooner. It takes 600 MB of memory
    on each node on which one of them has run, besides the libraries that all processes share."""
    queue_policy: Literal["backfill", "strict"] = "backfill"
    """``backfill``: owners take turns, and small jobs start beside a large one that waits, if they
    do not delay it. ``strict``: by priority and age alone; the first job that does not fit holds up
    all others."""
    preemption: bool = True
    """Whether a job may take the room of running jobs of lower priority."""
    fair_share_half_life_seconds: float = Field(default=86_400.0, gt=0.0, allow_inf_nan=False)
    """After this long, what an owner has used counts half."""
    preempt_after_seconds: float = Field(default=600.0, ge=0.0, allow_inf_nan=False)
    """A job is not preempted within this long of its start."""
    resize_after_seconds: float = Field(default=600.0, ge=0.0, allow_inf_nan=False)
    """Minimum time between two resizes of an elastic job."""
    grow_after_seconds: float = Field(default=300.0, ge=0.0, allow_inf_nan=False)
    """How long room must have been free before an elastic job grows into it."""
    retry_backoff_seconds: float = Field(default=5.0, ge=0.0, allow_inf_nan=False)
    """Wait before the second attempt; each later wait is twice as long, up to 5 minutes."""

    @classmethod
    def from_environment(cls, **given: Any) -> Settings:
        """The settings of this process; a field that is not set has its default.

        Args:
            given: fields that are not read from the environment.

        Raises:
            InvalidSettings: a variable has an invalid value.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = str(fault["loc"][0])
            name = f"{PREFIX}{field}".upper()
            # Pydantic's "Input should be a valid integer, unable to parse …", without its reason.
            message = fault["msg"].removeprefix("Value error, ").partition(", unable")[0]
            if message.startswith("Input should"):
                text = message.replace("Input", "it", 1)
            else:
                text = f"it is not valid: {message}"
            # A secret is not shown.
            shown = f" is '{fault['input']}'" if cls.model_fields[field].repr else ""
            raise InvalidSettings(f"{name}{shown}: {text}") from None

    def environment(self) -> dict[str, str]:
        """All variables that give a child process these settings."""
        return {f"{PREFIX}{name.upper()}": _text(value) for name, value in self}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        return ",".join(value)
    if isinstance(value, tuple):
        return ",".join(f"1x{node.cpus:g}x{node.gpus:g}" for node in value)
    return str(value)
