"""``vicreg up``: the whole platform on one machine, as child processes of this one.

SQLite, a Ray head, an MLflow server, the API and the dispatcher. A child that dies is restarted;
when this process ends, all of them do.
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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from vicreg_platform.client import ApiUnreachable, Client
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.errors import ClusterUnavailable, LocalPlatformError
from vicreg_platform.keys.service import new_key
from vicreg_platform.settings import Settings

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
READY_SECONDS = 120.0
GRACE_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 30.0
"""A child that lived this long is restarted without a longer wait."""
IDLE_SECONDS = 20.0
"""A child that does no work for this long, and has had as long to start, is restarted."""
CHECK_SECONDS = 5.0
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
    works: Callable[[], bool] = lambda: True
    """Whether it does its work. A process may be there and do nothing: Ray's stays when its node
    has ended itself."""
    idle_since: float | None = None
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

    def revive(self) -> None:
        """Restart the process if it has died, after a growing wait."""
        assert self.process is not None
        now = time.monotonic()
        if self.process.poll() is None:
            if now - self.started > STEADY_SECONDS:
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

    def check(self) -> None:
        """End the process if it is up and has done no work for a while; ``revive`` restarts it."""
        assert self.process is not None
        now = time.monotonic()
        starting = now - self.started < IDLE_SECONDS
        if self.process.poll() is not None or starting or self.works():
            self.idle_since = None
            return
        self.idle_since = self.idle_since or now
        if now - self.idle_since >= IDLE_SECONDS:
            logger.warning("%s is up and does no work: restarting it (%s)", self.name, self.log)
            self.idle_since = None
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
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop in %g s: killed", self.name, GRACE_SECONDS)
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
        if "?" in str(home):
            raise LocalPlatformError(f"--home {home}: a URL of SQLite cannot hold a question mark")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(home)
        _refuse_port_in_use("API", options.api_port, "--api-port")
        _refuse_port_in_use("MLflow", options.mlflow_port, "--mlflow-port")
        self.api_url = f"http://{LOOPBACK}:{options.api_port}"
        self.mlflow_url = f"http://{LOOPBACK}:{options.mlflow_port}"
        ports = free_ports(5)
        self.ray_url = f"http://{LOOPBACK}:{ports[0]}"
        self.logs = home / "logs"
        self.settings = Settings.from_environment(
            home=home,
            database_url=f"sqlite:///{home}/platform.db",
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
                _ray_command(home, options.cpus, ports),
                _RAY_ENVIRONMENT | {"RAY_AUTH_TOKEN": str(self.settings.ray_token)},
                partial(
                    _has_node,
                    RayCluster(self.ray_url, self.settings.ray_token, timeout=CHECK_SECONDS),
                ),
                # Its processes end with it. At a SIGTERM while it starts, it waits a minute for
                # those of them that have ended.
                ends_with_parent_by=signal.SIGKILL,
            ),
            self._child("mlflow", mlflow_command(home, options.mlflow_port), MLFLOW_ENVIRONMENT),
            self._child(
                "api",
                [sys.executable, "-m", "vicreg_api", "--port", str(options.api_port)],
                environment,
            ),
            self._child(
                "dispatcher", [sys.executable, "-m", "vicreg_platform.dispatcher"], environment
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
        works: Callable[[], bool] = lambda: True,
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
        checked = time.monotonic()
        while not self._ending.wait(0.5):
            for child in self.children:
                child.revive()
            if self._warm is not None:
                self._warm.poll()  # it has ended if its node has
            if time.monotonic() - checked > CHECK_SECONDS:
                for child in self.children:
                    child.check()
                checked = time.monotonic()


def _has_node(ray: RayCluster) -> bool:
    """Whether a node of the cluster is up; also if its head does not say."""
    try:
        return bool(ray.capacity().nodes)
    except ClusterUnavailable:
        return True


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
    return [
        sys.executable, "-m", "vicreg_platform.cli.mlflow_server",
        "--host", LOOPBACK,
        "--port", str(port),
        "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination", str(home / "artifacts"),
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
    folder.mkdir(mode=0o700, exist_ok=True)
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
