"""``vicreg up``: the whole platform on one machine, as child processes of this one.

SQLite, a Ray head, an MLflow server, the API and the dispatcher. A child that dies or hangs is
restarted; when this process ends, all of them do.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import httpx

from vicreg_platform.client import ApiUnreachable, Client
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.errors import ClusterUnavailable, LocalPlatformError
from vicreg_platform.keys.service import new_key
from vicreg_platform.settings import Settings, sqlite_url

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
READY_SECONDS = 120.0
GRACE_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""A child that lived this long is restarted without a longer wait."""
START_SECONDS = 120.0
"""How long a child may take to start: MLflow took a minute on a machine with other work."""
IDLE_SECONDS = 20.0
"""A child that says for this long that it does no work is restarted."""
SILENT_SECONDS = 60.0
"""A child that does not answer for this long is restarted; one that is busy answers before."""
CHECK_SECONDS = 5.0
"""Between two checks, and how long an answer may take."""
OWN_PORTS = (12_000, 32_000)
"""Above what services use by custom, and below what Linux gives out (32,768 and more)."""
OBJECT_STORE_BYTES = 200_000_000
"""Ray's own default is a third of the memory; nothing of ours goes through the object store."""


@dataclass(frozen=True)
class LocalOptions:
    """What a user may choose."""

    home: Path
    data_root: Path
    api_port: int = 8000
    mlflow_port: int = 5000
    cpus: int | None = None
    """CPUs that Ray may assign; default: those of the machine."""


@dataclass
class Health:
    """What is known of one process of a child."""

    worked: bool = False
    idle_since: float | None = None
    hangs: bool = False


@dataclass
class Child:
    """One supervised process."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff: float = FIRST_BACKOFF_SECONDS
    not_before: float = 0.0
    restarts: int = 0
    works: Callable[[], bool | None] = lambda: True
    """Whether it does its work; None if it does not answer. A process may be there and do nothing:
    Ray's stays when its node has ended itself."""
    health: Health = field(default_factory=Health)
    start_seconds: float = START_SECONDS
    idle_seconds: float = IDLE_SECONDS
    silent_seconds: float = SILENT_SECONDS
    steady_seconds: float = STEADY_SECONDS
    grace_seconds: float = GRACE_SECONDS
    ends_with_parent_by: signal.Signals = signal.SIGTERM
    """What the kernel sends it when this process is killed (Linux only)."""

    def start(self) -> None:
        """Start the process in its own session, with its output appended to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(self.ends_with_parent_by),
            )
        self.started = time.monotonic()
        self.health = Health()

    def revive(self) -> None:
        """Restart the process if it has died, after a growing wait."""
        assert self.process is not None
        now = time.monotonic()
        if self.process.poll() is None:
            if now - self.started > self.steady_seconds:
                self.backoff = FIRST_BACKOFF_SECONDS
            return
        if not self.not_before:
            logger.warning(
                "%s exited with %s: restarting it in %g s (%s)",
                self.name,
                self.process.returncode,
                self.backoff,
                self.log,
            )
            self._signal(signal.SIGKILL)  # the rest of its group
            self.not_before = now + self.backoff
            self.backoff = min(2 * self.backoff, MAX_BACKOFF_SECONDS)
        elif now >= self.not_before:
            self.not_before = 0.0
            self.restarts += 1
            self.start()

    def ask(self) -> None:
        """Ask whether the process works, and note if it has not for too long.

        This may take as long as an answer may, and so has a thread of its own. Until it has worked
        once, it is given time to start.
        """
        # Of the process that is asked: there may be another one when the answer comes.
        process, health = self.process, self.health
        if process is None or process.poll() is not None:
            return
        works = self.works()
        now = time.monotonic()
        if works:
            health.worked, health.idle_since = True, None
        elif health.worked or now - self.started >= self.start_seconds:
            if health.idle_since is None:
                health.idle_since = now
            patience = self.silent_seconds if works is None else self.idle_seconds
            health.hangs = now - health.idle_since >= patience

    def check(self) -> None:
        """End the process if it is up and has done no work for too long; ``revive`` restarts it."""
        assert self.process is not None
        if self.health.hangs and self.process.poll() is None:
            logger.warning("%s is up and does no work: restarting it (%s)", self.name, self.log)
            self.health = Health()
            self.end()

    def end(self) -> None:
        """Stop the process, its group, and whatever it started outside it."""
        import psutil

        if self.process is None:
            return
        try:
            descendants = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            descendants = []
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(self.grace_seconds)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in %g s: killed", self.name, self.grace_seconds)
        self._signal(signal.SIGKILL)
        self.process.wait()
        for descendant in descendants:
            try:
                descendant.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=GRACE_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return


class LocalPlatform:
    """The platform on this machine; see ``start`` and ``end``.

    Args:
        options: where and how to run it.

    Raises:
        LocalPlatformError: a port or the home is in use, or a part did not start.
    """

    def __init__(self, options: LocalOptions) -> None:
        home = options.home.absolute()
        # Version 0.2 made it readable by others. It may be a link to another disk.
        _private(home.resolve())
        if options.data_root.absolute() == home / "data":
            # So that a path that is not there is refused when it is submitted.
            options.data_root.mkdir(exist_ok=True)
        self._lock = _lock(home)
        _refuse_port_in_use("API", options.api_port, "--api-port")
        _refuse_port_in_use("MLflow", options.mlflow_port, "--mlflow-port")
        self.api_url = f"http://{LOOPBACK}:{options.api_port}"
        self.mlflow_url = f"http://{LOOPBACK}:{options.mlflow_port}"
        *ray_ports, health = free_ports(6)
        self.ray_url = f"http://{LOOPBACK}:{ray_ports[0]}"
        self.logs = home / "logs"
        self.settings = Settings.from_environment(
            home=home,
            database_url=sqlite_url(home / "platform.db"),
            ray_url=self.ray_url,
            # Its own, not those of another cluster that the environment may have.
            ray_token=secret(home / "ray-token", lambda: secrets.token_urlsafe(32)),
            api_key=secret(home / "api-key", new_key),
            mlflow_url=self.mlflow_url,
            mlflow_public_url=self.mlflow_url,
            storage=str(home / "storage"),
            data_root=options.data_root.absolute(),
        )
        environment = self.settings.environment()
        self.children = [
            self._child(
                "ray",
                _ray_command(home, options.cpus, ray_ports),
                _RAY_ENVIRONMENT | {"RAY_AUTH_TOKEN": str(self.settings.ray_token)},
                partial(
                    _has_node,
                    RayCluster(self.ray_url, self.settings.ray_token, timeout=CHECK_SECONDS),
                ),
                # Its processes end with it. At a SIGTERM while it starts, it waits a minute for
                # those of them that have ended.
                ends_with_parent_by=signal.SIGKILL,
            ),
            self._child(
                "mlflow",
                mlflow_command(home, options.mlflow_port),
                MLFLOW_ENVIRONMENT,
                healthy(f"{self.mlflow_url}/health"),
            ),
            self._child(
                "api",
                [sys.executable, "-m", "vicreg_api", "--port", str(options.api_port)],
                environment,
                healthy(f"{self.api_url}/healthz"),
            ),
            self._child(
                "dispatcher",
                [sys.executable, "-m", "vicreg_platform.dispatcher", f"--health-port={health}"],
                environment,
                healthy(f"http://{LOOPBACK}:{health}/healthz"),
            ),
        ]
        self._warm: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def _child(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        works: Callable[[], bool | None],
        ends_with_parent_by: signal.Signals = signal.SIGTERM,
    ) -> Child:
        log = self.logs / f"{name}.log"
        return Child(
            name,
            command,
            environment,
            log,
            works=works,
            ends_with_parent_by=ends_with_parent_by,
        )

    def start(self, report: Callable[[dict[str, str]], None] = lambda checks: None) -> None:
        """Start everything and wait until it is ready.

        Args:
            report: called with the answers of ``/readyz`` while waiting.

        Raises:
            LocalPlatformError: it was not ready within 2 minutes; nothing is left running.
        """
        self._supervisor.start()
        deadline = time.monotonic() + READY_SECONDS
        checks: dict[str, str] = {}
        with Client(self.api_url) as client:
            while not self._ending.is_set():
                try:
                    checks = client.readiness()
                except ApiUnreachable:
                    checks = {"api": "starting"}
                report(checks)
                if all(answer == "ok" for answer in checks.values()):
                    self._warm_up()
                    return
                if time.monotonic() > deadline:
                    missing = {name: text for name, text in checks.items() if text != "ok"}
                    self.end()
                    raise LocalPlatformError(
                        f"not ready after {READY_SECONDS:g} s: {missing}; logs: {self.logs}"
                    )
                time.sleep(0.25)

    def _warm_up(self) -> None:
        """Start the warm process of the Ray node, which ends with the node if not before."""
        ray = next(child.process for child in self.children if child.name == "ray")
        if self.settings.warm_start and ray is not None:
            self._warm = subprocess.Popen(
                [sys.executable, "-m", "vicreg_workers.warm_process", str(ray.pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )

    def end(self) -> None:
        """Stop everything."""
        self._ending.set()
        self._supervisor.join()
        if self._warm is not None:
            self._warm.kill()
            self._warm.wait()
        for child in reversed(self.children):
            child.end()
        self._lock.close()

    def _supervise(self) -> None:
        # Children die with the thread that started them, so this one starts and outlives them.
        for child in self.children:
            child.start()
        threading.Thread(target=self._ask, name="health", daemon=True).start()
        while not self._ending.wait(0.5):
            for child in self.children:
                child.check()
                child.revive()
            if self._warm is not None:
                self._warm.poll()  # it has ended if its node has

    def _ask(self) -> None:
        while not self._ending.wait(CHECK_SECONDS):
            for child in self.children:
                child.ask()


def _has_node(ray: RayCluster) -> bool | None:
    """Whether a node of the cluster is up; None if its head does not say."""
    try:
        return bool(ray.capacity().nodes)
    except ClusterUnavailable:
        return None


def healthy(url: str, timeout: float = CHECK_SECONDS) -> Callable[[], bool | None]:
    """A check of a service of this machine: its answer, or None if there is none in time."""
    http = httpx.Client(timeout=timeout, trust_env=False)  # no proxy is between

    def works() -> bool | None:
        try:
            return not http.get(url).is_server_error
        except httpx.HTTPError:
            return None

    return works


_RAY_ENVIRONMENT = {
    # From SIGTERM to SIGKILL: time to finish a step and save it.
    "RAY_JOB_STOP_WAIT_TIME_S": "20",
    # `python` in a job's command line is this interpreter.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whoever reaches Ray's dashboard without it could run commands as this user.
    "RAY_AUTH_MODE": "token",
    # When everything stops, there is nothing to drain for.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def _ray_command(home: Path, cpus: int | None, ports: list[int]) -> list[str]:
    # Ray's sockets lie under its folder, and a socket's path is at most 107 bytes long.
    digest = hashlib.sha256(str(home).encode()).hexdigest()[:8]
    # Ray opens its folder to everyone, so it lies in one that is not.
    folder = _private(Path(tempfile.gettempdir()) / f"vicreg-{os.getuid()}-{digest}") / "ray"
    dashboard, gcs, client, agent, metrics = ports
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block",
        f"--node-ip-address={LOOPBACK}",
        f"--port={gcs}",
        f"--dashboard-host={LOOPBACK}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
        f"--metrics-export-port={metrics}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={cpus or os.cpu_count() or 1}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip


MLFLOW_ENVIRONMENT = {
    # MLflow's own jobs, of language models: eight processes, 1 GB and seconds of its start.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def mlflow_command(home: Path, port: int) -> list[str]:
    """What starts an MLflow server on loopback that keeps everything in ``home``."""
    # With its driver named: for a URL without, MLflow makes a folder of the path as it is escaped.
    database = sqlite_url(home / "mlflow.db").replace("sqlite:", "sqlite+pysqlite:", 1)
    return [
        sys.executable, "-m", "vicreg_platform.cli.mlflow_server",
        "--host", LOOPBACK,
        "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", database,
        "--artifacts-destination", (home / "artifacts").as_uri(),
        "--serve-artifacts",
    ]  # fmt: skip


def secret(file: Path, make: Callable[[], str]) -> str:
    """The secret in a file that only this user can read; made if there is none.

    Raises:
        LocalPlatformError: others can read the file.
    """
    try:
        with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as written:
            written.write(f"{make()}\n")
    except FileExistsError:
        if file.stat().st_mode & 0o077:
            raise LocalPlatformError(
                f"others can read the secret in {file}: delete the file, and a new one is made"
            ) from None
    return file.read_text().strip()


def _private(folder: Path) -> Path:
    """A folder that only this user can enter.

    Raises:
        LocalPlatformError: another user has made it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise LocalPlatformError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    return folder


def free_ports(count: int) -> list[int]:
    """Ports that nothing uses, on any address of this machine.

    None of them is one that the system gives to whoever asks for any port: until a slow process
    of ours binds its port, another would get it.
    """
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = random.SystemRandom().randrange(*OWN_PORTS)
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("", port))
            except OSError:
                continue
            ports.append(port)
    return ports


def interrupt_on_signals() -> None:
    """Have Ctrl-C and SIGTERM both raise KeyboardInterrupt in the main thread.

    A shell makes a process in the background ignore Ctrl-C; this undoes it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _refuse_port_in_use(what: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise LocalPlatformError(
                f"port {port}, needed for {what}, is in use: stop what listens there, or choose "
                f"another with {option}"
            ) from None


def _lock(home: Path) -> IO[str]:
    """The lock of a home: held by one process, as long as the file is open."""
    file = (home / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise LocalPlatformError(
            f"{home} is in use by another `vicreg up` (process {holder}): stop that one, or choose "
            "another home with VICREG_HOME"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _end_with_parent(by: signal.Signals) -> Callable[[], None] | None:
    """Make the kernel stop a child whose parent was killed (Linux only)."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
    parent = os.getpid()

    def end_with_parent() -> None:
        libc.prctl(set_parent_death_signal, by)
        if os.getppid() != parent:  # it was killed before this line
            os._exit(1)

    return end_with_parent
