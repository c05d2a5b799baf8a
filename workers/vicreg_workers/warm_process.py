"""Processes that have imported what a job needs before the job is there.

Importing torch, torchvision, scikit-learn and MLflow takes a process seconds. The first driver or
worker on a Ray node leaves a warm process there, which imports them and waits; later drivers, and
the processes that Ray starts for their workers and trials, are forks of it.

* The warm process runs no job, has made no CUDA context, and holds nothing of any job. Each fork
  belongs to one job, and ends with it.
* A fork gets the arguments, environment, folder and standard files of the process that Ray has
  started. That one waits for it, passes signals on, and ends as it ends. If it is killed, so is
  the fork, with all that the fork has started.
* If the warm process is killed, its forks run on, and the next process leaves another.
* Other sources, another interpreter, another Ray node on the machine or another user have a warm
  process of their own. It ends with its node, or when its sources change: so there is one for each
  installation that a node runs, of some 600 MB, and an upgrade leaves none behind.

Until a fork is asked for, nothing but the standard library is imported: it is all that a warm start
waits for.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NoReturn

IMPORTED = (
    "matplotlib.figure",
    "mlflow.artifacts",
    "mlflow.tracking",
    "sklearn.datasets",
    "torchvision.transforms.v2",
    "vicreg_workers.evaluate.worker",
    "vicreg_workers.pretrain.worker",
)
"""Not Ray: it reads its environment when it is imported, and each fork has another."""
PACKAGES = ("vicreg_platform", "vicreg_workers")
CONNECT_SECONDS = 1.0
FORK_SECONDS = 10.0
"""How long a warm process may take to fork before the other starts without it."""
LOOK_SECONDS = 1.0
"""How often a warm process looks whether its Ray node is still there."""
SOURCES_SECONDS = 10.0
"""How often it looks whether its sources are those that it has imported."""
_LENGTH = struct.Struct("!I")


def fork_if_there_is_one(role: Role) -> None:
    """Have this node's warm process fork the process that this one is to be, and exit as it does.

    Returns if there is no warm process, after it has started one for later ones. Does nothing
    outside a Ray job.

    Args:
        role: what the fork does with this process's arguments.
    """
    address = _address(_raylet())
    if address is None:
        return
    fork = _ask(address, role)
    if fork is not None:
        _wait(*fork)
    _leave_one(address)


def _ask(address: Path, role: Role) -> tuple[int, int] | None:
    """Ask for a fork.

    Returns:
        Its process id, and a pipe in which it writes its exit code; None if nobody answers.
    """
    code, write_code = os.pipe()
    alive, stay_alive = os.pipe()
    task = {
        "role": role,
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    content = json.dumps(task).encode()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(str(address))
            connection.settimeout(FORK_SECONDS)
            files = [0, 1, 2, write_code, alive]
            socket.send_fds(connection, [_LENGTH.pack(len(content))], files)
            connection.sendall(content)
            (process_id,) = _LENGTH.unpack(_received(connection, _LENGTH.size))
            return process_id, code
    except OSError:
        # Should it fork after all, the fork ends at once.
        os.close(stay_alive)
        os.close(code)
        return None
    finally:
        os.close(write_code)
        os.close(alive)


def _wait(process_id: int, code: int) -> NoReturn:
    """Wait for the fork, passing signals on, and exit as it does."""

    def pass_on(number: int, _: Any) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, number)

    with suppress(ProcessLookupError):
        process = os.pidfd_open(process_id)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, pass_on)
        select.select([process], [], [])
    # What the fork has started may hold the pipe open: it is not waited for.
    os.set_blocking(code, False)
    with suppress(BlockingIOError):
        if said := os.read(code, 1):
            sys.exit(said[0])
    # It was killed, perhaps because memory ran out.
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _leave_one(address: Path) -> None:
    """Start a warm process, which outlives this one and is not among its children.

    Ray tells all children of a driver that it stops to end, and theirs: a warm process among them
    would end, and with it the workers that are its forks, before they have saved their state.
    """
    with suppress(OSError):
        between = os.fork()
        if between:
            os.waitpid(between, 0)
            return
        try:
            subprocess.Popen(
                _serving(address),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        finally:
            os._exit(0)


def _serving(address: Path) -> list[str]:
    serve = f"from vicreg_workers.warm_process import serve; serve({str(address)!r})"
    return [sys.executable, "-c", serve]


def main() -> None:
    """Be the warm process of the Ray node that a process has started, before its first job.

    Its argument is the id of that process. Returns when it is gone, or there is a warm process.
    """
    import psutil

    process_id = int(sys.argv[1])
    while _lives(process_id):
        for child in psutil.Process(process_id).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if child.name() == "raylet" and (address := _address(child.pid)):
                    command = _serving(address)
                    os.execv(command[0], command)
        time.sleep(LOOK_SECONDS)


def serve(address: str) -> None:
    """Be a warm process: fork for each that asks, until its Ray node is gone or its sources change.

    Args:
        address: the path of the socket; its name begins with the process id of the node's raylet.
    """
    path = Path(address)
    raylet = int(path.name.partition("-")[0])
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another one is there
        before = dict(os.environ)
        for module in IMPORTED:
            importlib.import_module(module)
        # Some modules set variables when they are imported, which a fork has to have too.
        set_by_imports = {k: v for k, v in os.environ.items() if before.get(k) != v}
        gc.freeze()  # a collection in a fork would copy what is shared
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            listener.settimeout(LOOK_SECONDS)
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for the forks
            fork = None
            looked = time.monotonic()
            while fork is None and _lives(raylet):
                if time.monotonic() - looked > SOURCES_SECONDS:
                    if _address(raylet) != path:
                        break  # nobody will ask for it again
                    looked = time.monotonic()
                with suppress(TimeoutError):
                    fork = _accept(listener)
        if fork is None:
            path.unlink(missing_ok=True)
            Path(lock.name).unlink(missing_ok=True)
    if fork is not None:
        fork(set_by_imports)


def _accept(listener: socket.socket) -> Callable[[dict[str, str]], None] | None:
    """Fork for the next one that asks.

    Returns:
        In the fork what it does, to be called with further environment variables when all else is
        closed; else None.
    """
    connection, _ = listener.accept()
    files: list[int] = []
    # Whatever is sent here, the next one is answered.
    with connection, suppress(OSError, ValueError, struct.error):
        connection.settimeout(CONNECT_SECONDS)
        length, files, _, _ = socket.recv_fds(connection, _LENGTH.size, 5)
        task = json.loads(_received(connection, *_LENGTH.unpack(length)))
        process_id = os.fork()
        if not process_id:
            return lambda variables: _play(task, files, variables)
        connection.sendall(_LENGTH.pack(process_id))
    for file in files:
        os.close(file)
    return None


def _play(task: dict[str, Any], files: list[int], variables: dict[str, str]) -> NoReturn:
    """Be the process that has asked for the fork."""
    *standard, write_code, alive = files
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(standard):
        os.dup2(file, number)
        os.close(file)
    os.chdir(task["folder"])
    os.environ.clear()
    os.environ.update(variables | task["environment"])
    sys.argv[1:] = task["arguments"]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threading.Thread(target=_end_with, args=(alive,), name="end with Ray's", daemon=True).start()
    import numpy as np

    np.random.seed()  # else each fork would draw what the others do
    code = 1
    try:
        _ROLES[task["role"]](task["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    os.write(write_code, bytes([code]))
    # Not the rest of an interpreter's end: it touches all memory that is shared, and so copies it.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _as_driver(arguments: list[str]) -> None:
    import psutil

    from vicreg_workers.driver import drive

    with suppress(psutil.Error):
        warm = psutil.Process(os.getppid())
        held = warm.memory_info().rss // 10**6
        print(f"forked from warm process {warm.pid} of this node, which holds {held} MB")
    drive(arguments[0])


def _as_ray_worker(arguments: list[str]) -> None:
    # Ray's own script, which reads the arguments after its path.
    sys.argv[:] = arguments
    runpy.run_path(arguments[0], run_name="__main__")


Role = Literal["driver", "ray worker"]
_ROLES: dict[Role, Callable[[list[str]], None]] = {
    "driver": _as_driver,
    "ray worker": _as_ray_worker,
}


def _end_with(alive: int) -> None:
    """End this process, and what it has started, when the one that Ray has started is gone."""
    os.read(alive, 1)
    os.killpg(0, signal.SIGKILL)


def _received(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        piece = connection.recv(min(2**16, count - len(content)))
        if not piece:
            raise OSError("the connection was closed")
        content += piece
    return content


def _lives(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


def _address(raylet: int | None) -> Path | None:
    """Where the warm process of this user, interpreter and sources listens, if it may.

    Args:
        raylet: the process id of the node's raylet, if there is one.
    """
    if raylet is None:
        return None
    folder = Path(tempfile.gettempdir()) / f"vicreg-warm-{os.getuid()}"
    try:
        os.close(os.pidfd_open(os.getpid()))  # kernels before 5.3 have none
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        if state.st_uid != os.getuid() or state.st_mode & 0o077:
            return None  # somebody else has made it
        return folder / f"{raylet}-{_digest()}"
    except OSError:
        return None


def _raylet() -> int | None:
    """The process id of the raylet that this process descends from, on Linux."""
    process_id = os.getppid()
    with suppress(OSError, ValueError):
        while process_id > 1:
            # "4711 (raylet) S 4710 …": a name may contain blanks and brackets.
            _, _, rest = Path(f"/proc/{process_id}/stat").read_text().partition("(")
            name, _, rest = rest.rpartition(")")
            if name == "raylet":
                return process_id
            process_id = int(rest.split()[1])
    return None


def _digest() -> str:
    """Of the interpreter and of the sources, as far as their names, sizes and times tell."""
    digest = hashlib.sha256(sys.executable.encode())
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for file in sorted(Path(spec.origin).parent.rglob("*.py")):
            state = file.stat()
            digest.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    main()
