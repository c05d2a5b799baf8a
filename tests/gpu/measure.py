"""Checks and measures what only a GPU can show, most important first, and writes it as JSON.

``make gpu`` runs it: the tests of this folder, a step of ResNet-50 and of ResNet-18 beside the
authors' and lightly's, and with ``--images`` what a training of CIFAR-10 reaches in what is left of
the time. It needs neither Ray nor MLflow. The file is written after each part, and a part that
fails leaves its reason there and the next ones to run. ``--tables FILE`` prints the tables of
docs/performance.md from such a file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from tests.benchmarks import gpu, time_budget
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic

TESTS = Path(__file__).parent
SHORTEST_TRAINING = 60
"""Seconds: a shorter training of CIFAR-10 says nothing."""
AROUND_TRAINING = 30
"""Seconds for what is before and after it."""
TRAINING: list[str] = []
"""Arguments of the training: its defaults."""
NETWORKS = {
    "resnet50": ["--batches", "256"],
    "resnet18": [
        *("--backbone", "resnet18", "--stem", "cifar", "--size", "32", "--width", "2048"),
        *("--batches", "256", "1024"),
    ],
}


def machine(device: str) -> dict[str, Any]:
    """What it was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}


def tested(seconds: float) -> dict[str, Any]:
    """The tests of this folder, in a process of their own: how many passed, and which failed."""
    report = TESTS / ".results.xml"
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS), f"--junitxml={report}"]
    try:
        ended = subprocess.run(command, timeout=seconds, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    finally:
        report.unlink(missing_ok=True)
    failed = [
        case for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "exit_code": ended.returncode,
        "passed": len(cases) - len(failed) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}::{case.get('name')}" for case in failed],
    }


def stepped(network: str, device: str) -> dict[str, Any]:
    """See ``tests.benchmarks.gpu.steps``."""
    options = ["--device", device, "--rounds", "3", *NETWORKS[network]]
    return gpu.steps(gpu.parser().parse_args(options))


def trained(images: Path, seconds: float, device: str) -> dict[str, Any]:
    """See ``tests.benchmarks.time_budget.trained``."""
    options = [str(images), "--seconds", str(seconds), "--device", device, *TRAINING]
    return time_budget.trained(time_budget.parser().parse_args(options))


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = ["{device}, torch {torch}, CUDA {cuda}".format(**results["machine"])]
    for name, result in results["parts"].items():
        if "error" in result:
            parts.append(f"{name}: not measured: {result['error']}")
        elif name == "tests":
            parts.append(
                "tests: {passed} passed, {skipped} skipped, failed: {failed}".format(**result)
            )
        else:
            parts.append((time_budget.table if name == "cifar10" else gpu.tables)(result))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("gpu.json"))
    parser.add_argument("--tables", type=Path, help="print the tables of a file, and end")
    parser.add_argument("--images", type=Path, help="CIFAR-10 as {train,test}/<class>/")
    parser.add_argument("--limit", type=float, default=450, help="seconds in all (default 450)")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    if options.tables is not None:
        print(tables(json.loads(options.tables.read_text())))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("make gpu: there is no CUDA device here, so nothing is measured")
    started = time.perf_counter()

    def left() -> float:
        return float(options.limit - (time.perf_counter() - started))

    set_gpu_arithmetic()
    parts: dict[str, Callable[[], dict[str, Any]]] = {"tests": lambda: tested(left())}
    for network in NETWORKS:
        parts[network] = partial(stepped, network, options.device)
    if options.images is not None:
        parts["cifar10"] = lambda: trained(options.images, left() - AROUND_TRAINING, options.device)
    results: dict[str, Any] = {"machine": machine(options.device), "parts": {}}
    for name, part in parts.items():
        needed = SHORTEST_TRAINING + AROUND_TRAINING if name == "cifar10" else 0
        try:
            if left() <= needed:
                raise TimeoutError(f"{left():.0f} of {options.limit:.0f} s were left")
            results["parts"][name] = part()
        except Exception as error:  # the next parts are measured all the same
            results["parts"][name] = {"error": f"{type(error).__name__}: {error}"}
        options.file.write_text(json.dumps(results, indent=1))
    print(tables(results))
    failed = [name for name, result in results["parts"].items() if "error" in result]
    if failed:
        raise SystemExit(f"not measured: {', '.join(failed)}")
    tests = results["parts"]["tests"]
    if tests["exit_code"] != 0 or not tests["passed"]:
        raise SystemExit("the tests did not pass")


if __name__ == "__main__":
    main()
