"""A driver that is forked from a warm process is as its own process would be, and alone.

The raylet here is a small program: it is a parent that starts drivers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import MlflowServer, wait_until
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FAILURE_LINE, FailureClass
from vicreg_platform.specs import parse_spec

KNN = {"name": "knn", "k": 5}
LONG = {"name": "linear", "epochs": 10_000, "batch_size": 8}
ROOT = Path(__file__).parents[2]
RAYLET = """
import json, subprocess, sys, threading

saying = threading.Lock()

def say(**news):
    with saying:
        print(json.dumps(news), flush=True)

def run(task):
    with open(task["output"], "w") as output:
        driver = subprocess.Popen(
            task["command"], env=task["environment"], stdout=output, stderr=subprocess.STDOUT
        )
    say(task=task["task"], pid=driver.pid)
    say(task=task["task"], code=driver.wait())

for line in sys.stdin:
    threading.Thread(target=run, args=(json.loads(line),), daemon=True).start()
"""


WORKER = """
import os, sys, time

print(__name__, sys.argv, os.environ["TMPDIR"], *(m in sys.modules for m in ("torch", "ray")))
sys.stdout.flush()
time.sleep(float(sys.argv[1]))
sys.exit(7)
"""


GREEDY = """
import resource, sys

resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
kept = []
while True:
    kept.append(bytearray(1 << 26))
"""


class Driver:
    """A driver or worker, as the process that has started it knows it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.pid = 0
        self.code: int | None = None

    def wait(self, seconds: float = 120.0) -> int:
        wait_until(lambda: self.code is not None, seconds)
        assert self.code is not None
        return self.code

    def said(self) -> str:
        return self.output.read_text()

    def send(self, number: signal.Signals) -> None:
        wait_until(lambda: self.pid)
        os.kill(self.pid, number)


class Node:
    """A Ray node: its raylet starts drivers."""

    def __init__(self, folder: Path, mlflow: str) -> None:
        self.folder = folder
        self.mlflow = mlflow
        self.drivers: list[Driver] = []
        raylet = folder / "raylet"
        raylet.symlink_to(sys.executable)
        self.raylet = subprocess.Popen(
            [raylet, "-c", RAYLET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.raylet.stdout is not None
        for line in self.raylet.stdout:
            news = json.loads(line)
            driver = self.drivers[news["task"]]
            driver.pid = news.get("pid", driver.pid)
            driver.code = news.get("code")

    def start(
        self,
        protocol: dict[str, Any],
        *,
        sources: Path = ROOT,
        data: str = "digits",
        warm_start: bool = True,
    ) -> Driver:
        """Start a driver as Ray does."""
        train: dict[str, Any] = {"source": data} | ({"path": "none"} if data != "digits" else {})
        spec = parse_spec(
            {
                "kind": "evaluate",
                "encoder": {"untrained": {"name": "resnet10", "stem": "cifar"}},
                "protocol": protocol,
                "data": {"train": train | {"share": 0.1}, "test": train | {"share": 0.1}},
            }
        )
        assignment = Assignment(
            job_id=f"{self.folder.name}-{len(self.drivers)}",
            attempt=1,
            spec=spec,
            tracking_uri=self.mlflow,
            storage=str(self.folder),
            data_root=str(self.folder),
            warm_start=warm_start,
        )
        return self._run("main", assignment.model_dump_json(), sources=sources)

    def start_worker(self, *arguments: str, text: str = WORKER) -> Driver:
        """Start a worker as Ray does, with a script in place of Ray's."""
        script = self.folder / ("worker.py" if text == WORKER else "other.py")
        script.write_text(text)
        return self._run("ray_worker", str(script), *arguments)

    def _run(self, module: str, *arguments: str, sources: Path = ROOT) -> Driver:
        number = len(self.drivers)
        driver = Driver(self.folder / f"driver-{number}.log")
        self.drivers.append(driver)
        packages = os.pathsep.join(str(sources / name) for name in ("platform", "workers"))
        command = [sys.executable, "-m", f"vicreg_workers.{module}", *arguments]
        task = {
            "task": number,
            "command": command,
            "environment": os.environ | {"TMPDIR": str(self.folder), "PYTHONPATH": packages},
            "output": str(driver.output),
        }
        assert self.raylet.stdin is not None
        self.raylet.stdin.write(json.dumps(task) + "\n")
        self.raylet.stdin.flush()
        return driver

    def warm(self) -> list[psutil.Process]:
        """The warm processes, without their forks."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if f"serve('{self.folder}" in " ".join(process.cmdline()):
                    found[process.pid] = process
        return [each for each in found.values() if each.ppid() not in found]

    def sockets(self) -> list[Path]:
        return [file for file in self.folder.glob("vicreg-warm-*/*") if file.is_socket()]

    def warm_one(self) -> psutil.Process:
        """Wait until one listens."""
        wait_until(self.sockets, seconds=120)
        (process,) = self.warm()
        return process

    def end(self) -> None:
        for driver in self.drivers:
            if driver.code is None and driver.pid:
                os.kill(driver.pid, signal.SIGKILL)
        self.raylet.kill()
        self.raylet.wait()
        wait_until(lambda: not self.warm(), seconds=20)


@pytest.fixture
def node(tmp_path: Path, mlflow_server: MlflowServer) -> Iterator[Node]:
    made = Node(tmp_path, mlflow_server.url)
    yield made
    made.end()


def forks_of(warm: psutil.Process, count: int = 1) -> list[psutil.Process]:
    """Its forks."""
    wait_until(lambda: len(warm.children()) == count)
    return warm.children()


def test_a_forked_driver_does_what_its_own_process_does(node: Node) -> None:
    cold = node.start(KNN)
    assert cold.wait() == 0, cold.said()
    warm = node.warm_one()
    forked = node.start(KNN)
    forks_of(warm)
    assert forked.wait() == 0, forked.said()
    results = [re.findall(r"knn/top\d [\d.]+", driver.said()) for driver in (cold, forked)]
    assert results[0] == results[1] != []
    assert f"attempt 1 of job {node.folder.name}-1" in forked.said()
    (held,) = re.findall(rf"forked from warm process {warm.pid} .* holds (\d+) MB", forked.said())
    assert 100 < int(held) < 1500
    asked = node.start(KNN, warm_start=False)
    assert asked.wait() == 0
    assert warm.children() == []


def test_a_failure_keeps_its_code_and_its_reason(node: Node) -> None:
    node.start(KNN).wait()
    warm = node.warm_one()
    for nonsense in (b"", b"\0\0\0\4null"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(node.sockets()[0]))
            connection.sendall(nonsense)
    failed = node.start(KNN, data="image_folder")
    forks_of(warm)
    assert failed.wait() == FailureClass.USER.exit_code
    assert re.search(rf"^{re.escape(FAILURE_LINE)}.*none", failed.said(), re.MULTILINE)


def test_each_ends_alone(node: Node) -> None:
    node.start(KNN).wait()
    warm = node.warm_one()
    killed, stopped, lost, left = (node.start(LONG) for _ in range(4))
    forks = forks_of(warm, 4)

    def fork(driver: Driver) -> psutil.Process:
        """The fork that writes into the driver's output, which it does once it is the driver."""

        def found() -> list[psutil.Process]:
            return [
                each
                for each in forks
                if os.readlink(f"/proc/{each.pid}/fd/1") == str(driver.output)
            ]

        wait_until(found)
        return found()[0]

    # What Ray kills is gone.
    of_killed, of_stopped, of_lost, of_left = map(fork, (killed, stopped, lost, left))
    killed.send(signal.SIGKILL)
    of_killed.wait(20)
    # What is told to stop stops.
    stopped.send(signal.SIGTERM)
    assert stopped.wait(30) != 0
    of_stopped.wait(20)
    # What the system kills looks killed to Ray.
    of_lost.kill()
    assert lost.wait(20) == -signal.SIGKILL
    # The last one runs on, also without the warm process.
    warm.kill()
    warm.wait(10)
    assert of_left.is_running()
    assert left.code is None
    # The next one starts by itself, and leaves another.
    assert node.start(KNN).wait() == 0
    wait_until(lambda: any(each.pid not in {warm.pid, of_left.pid} for each in node.warm()))


def test_a_stop_of_the_one_that_left_it_does_not_reach_it(node: Node) -> None:
    """Ray tells all children of a driver that it stops, and theirs, to end."""
    first = node.start_worker("1000")
    warm = node.warm_one()
    wait_until(first.said)
    assert warm not in psutil.Process(first.pid).children(recursive=True)
    first.send(signal.SIGTERM)
    assert first.wait() == -signal.SIGTERM
    assert warm.is_running()


def test_the_workers_that_ray_starts_are_forks_too(node: Node) -> None:
    cold = node.start_worker("0")
    assert cold.wait() == 7, cold.said()
    warm = node.warm_one()
    forked = node.start_worker("0")
    assert forked.wait() == 7, forked.said()
    script = str(node.folder / "worker.py")
    # Ray reads its environment when it is imported: it must not be there yet.
    assert cold.said() == f"__main__ {[script, '0']} {node.folder} False False\n"
    assert forked.said() == f"__main__ {[script, '0']} {node.folder} True False\n"

    killed, lost, left = (node.start_worker("1000") for _ in range(3))
    forks_of(warm, 3)
    wait_until(lambda: all(each.said() for each in (killed, lost, left)))
    killed.send(signal.SIGKILL)
    of_lost, *_ = forks_of(warm, 2)
    of_lost.kill()
    wait_until(lambda: sum(each.code is not None for each in (lost, left)) == 1)
    (last,) = forks_of(warm, 1)
    warm.kill()
    warm.wait(10)
    assert last.is_running()
    assert -signal.SIGKILL in (lost.code, left.code)


def test_one_that_runs_out_of_memory_leaves_the_others(node: Node) -> None:
    assert node.start_worker("0").wait() == 7
    warm = node.warm_one()
    other = node.start_worker("1000")
    wait_until(lambda: other.pid and other.said())
    (of_other,) = forks_of(warm)
    greedy = node.start_worker(text=GREEDY)
    assert greedy.wait() == 1
    assert "MemoryError" in greedy.said()
    assert forks_of(warm) == [of_other]
    assert other.code is None
    # What it took is free again, and no limit of its own is left.
    again = node.start_worker("0")
    assert again.wait() == 7, again.said()


def test_a_node_is_warm_before_its_first_job(node: Node) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "vicreg_workers.warm_process", str(os.getpid())],
        env=os.environ | {"TMPDIR": str(node.folder)},
    )
    warm = node.warm_one()
    assert warm.pid == started.pid
    forked = node.start(KNN)
    forks_of(warm)
    assert forked.wait() == 0, forked.said()
    node.raylet.kill()
    node.raylet.wait()
    assert started.wait(20) == 0


def test_other_sources_have_a_warm_process_of_their_own(node: Node, tmp_path: Path) -> None:
    node.start(KNN).wait()
    node.warm_one()
    other = tmp_path / "other"
    for package in ("platform", "workers"):
        shutil.copytree(ROOT / package, other / package)
    changed = other / "workers/vicreg_workers/log_format.py"
    changed.write_text(changed.read_text().replace("def ", "print('changed')\n\n\ndef ", 1))
    new = node.start(KNN, sources=other)
    assert new.wait() == 0, new.said()
    assert "changed" in new.said()
    wait_until(lambda: len(node.sockets()) == 2, seconds=120)
    old = node.start(KNN)
    assert old.wait() == 0
    assert "changed" not in old.said()
    # An upgrade in place: what holds the sources of before is of no use any more.
    assert len(node.warm()) == 2
    changed.write_text(changed.read_text() + "\n")
    wait_until(lambda: len(node.warm()) == 1, seconds=30)
    assert len(node.sockets()) == 1
    assert node.start(KNN).wait() == 0


def test_it_ends_with_its_node(node: Node) -> None:
    node.start(KNN).wait()
    warm = node.warm_one()
    node.raylet.kill()
    node.raylet.wait()
    warm.wait(20)
    assert node.sockets() == []


def test_a_folder_that_others_can_enter_is_not_used(node: Node) -> None:
    folder = node.folder / f"vicreg-warm-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    assert node.start(KNN).wait() == 0
    assert list(folder.iterdir()) == []


NO_CUDA = """
import importlib
import torch

def refuse():
    raise SystemExit("a fork could not use CUDA: it was asked for devices before")

torch._C._cuda_getDeviceCount = torch._C._cuda_init = refuse
from vicreg_workers.warm_process import IMPORTED
for module in IMPORTED:
    importlib.import_module(module)
assert not torch.cuda.is_initialized()
"""


def test_what_it_imports_does_not_touch_cuda() -> None:
    done = subprocess.run([sys.executable, "-c", NO_CUDA], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
