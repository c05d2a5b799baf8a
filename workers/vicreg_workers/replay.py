"""Repeats the step at which a pretraining diverged, and names what was not finite first."""

from __future__ import annotations

import argparse
import io
import sys

import torch

from vicreg_workers.failures import InfrastructureFailure, JobFailure, UserFailure, as_job_failures
from vicreg_workers.selfsup.capture import CAPTURE, Capture, environment
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.selfsup.replay import Replay, replay
from vicreg_workers.storage import Folder

SHOWN = 10
"""Modules before the fault whose magnitudes are printed."""


def load_capture(storage: str, job_id: str) -> Capture:
    """The capture that a job has left in its folder.

    Raises:
        UserFailure: there is none, or it cannot be read.
        InfrastructureFailure: the storage is unreachable.
    """
    folder = Folder.of_job(storage, job_id)
    try:
        return Capture.load(io.BytesIO(folder.read(CAPTURE)))
    except FileNotFoundError:
        raise UserFailure(
            f"job {job_id} has no {CAPTURE} in {storage}: a pretraining leaves one when its loss "
            "or gradient is not finite"
        ) from None
    except InvalidInput as error:
        raise UserFailure(f"{folder}/{CAPTURE}: {error}") from None
    except Exception as error:  # whatever the storage's library raises
        raise InfrastructureFailure(f"{folder} cannot be read: {error}") from None


def chosen_device(name: str | None, capture: Capture) -> torch.device:
    """The device of a name; by default, the training's if this machine has such a one.

    Raises:
        UserFailure: the machine has no such device.
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise UserFailure(f"torch {torch.__version__} finds no GPU here: use --device cpu")
    return torch.device(name or (capture.device if gpu else "cpu"))


def described(capture: Capture, made: Replay, device: torch.device) -> str:
    """What a replay has shown, for the user, in lines."""
    trained = f"{capture.device} in {capture.spec.training.precision}"
    workers = f"{capture.workers} workers" if capture.workers > 1 else "1 worker"
    lines = [f"step {capture.step}, trained on {trained} by {workers}, repeated on {device.type}"]
    here = environment(device)
    lines += [
        f"{name} was {version}, and is {here.get(name, 'none')} here"
        for name, version in capture.environment.items()
        if here.get(name) != version
    ]
    width = max(map(len, capture.values))
    lines += ["", f"{'':{width}}  then        here"]
    for name, value in capture.values.items():
        now = f"{made.values[name]:.4g}" if name in made.values else ""
        lines.append(f"{name:{width}}  {value:<10.4g}  {now}".rstrip())
    shown = made.passed[-SHOWN:] if made.fault is not None else []
    if shown:
        width = max(len(where) for where, _ in shown)
        lines += ["", f"{'before it':{width}}  largest magnitude"]
        lines += [f"{where:{width}}  {largest:.2g}" for where, largest in shown]
    lines.append("")
    if made.fault is None:
        lines.append(f"every tensor is finite here: on {device.type}, the step is not repeated")
    else:
        lines.append(f"the first tensor that is not finite is {made.fault}")
    return "\n".join(lines)


def main() -> None:
    """Repeat a job's step, as ``vicreg replay`` does, and print what it shows."""
    parser = argparse.ArgumentParser(description="Repeat the step at which a job diverged.")
    parser.add_argument("job", help="a pretraining job")
    parser.add_argument("--storage", required=True, help="where the jobs' folders are")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the training's")
    arguments = parser.parse_args()
    try:
        with as_job_failures("replay on the CPU: --device cpu"):
            capture = load_capture(arguments.storage, arguments.job)
            device = chosen_device(arguments.device, capture)
            if device.type == "cuda":
                set_gpu_arithmetic()
            print(described(capture, replay(capture, device), device))
    except JobFailure as failure:
        sys.exit(" ".join(str(failure).split()))


if __name__ == "__main__":
    main()
