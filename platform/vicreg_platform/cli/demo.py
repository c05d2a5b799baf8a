"""``make demo``: the main job from end to end, on one machine."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vicreg_platform.cli.local import (
    LocalOptions,
    LocalPlatform,
    free_ports,
    interrupt_on_signals,
)
from vicreg_platform.cli.output import JobProgress
from vicreg_platform.client import Client
from vicreg_platform.errors import PlatformError
from vicreg_platform.jobs.schemas import JobSchema
from vicreg_platform.jobs.states import JobState
from vicreg_platform.recipes import load_recipe

PROTOCOLS = {"knn": "kNN", "linear": "linear"}


def run_demo(console: Console, home: Path, keep: bool) -> None:
    """Pretrain on digits, evaluate, and compare with the untrained network.

    Args:
        console: where to print.
        home: where the platform keeps everything.
        keep: leave the platform running until Ctrl-C.

    Raises:
        PlatformError: a job did not succeed.
    """
    started = time.monotonic()
    api_port, mlflow_port = free_ports(2)
    platform = LocalPlatform(LocalOptions(home, home / "data", api_port, mlflow_port))
    interrupt_on_signals()
    try:
        with console.status("starting SQLite, Ray, MLflow, the API and the dispatcher"):
            platform.start()
        console.print(f"platform ready after {time.monotonic() - started:.0f} s")
        console.print(f"  API     {platform.api_url}/docs\n  MLflow  {platform.mlflow_url}\n")
        key = platform.settings.api_key
        with Client(platform.api_url, wait_seconds=30.0, key=key) as client:
            pretrained, evaluations = _pretrain_and_evaluate(client, console)
        console.print(_comparison(evaluations))
        assert pretrained.mlflow is not None
        console.print(f"\nMLflow run: {pretrained.mlflow.url}", soft_wrap=True)
        console.print(f"done in {time.monotonic() - started:.0f} s")
        if keep:
            console.print("The platform keeps running: Ctrl-C stops it.")
            signal.pause()
        else:
            console.print("KEEP=1 leaves the platform running, so that you can browse the run.")
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        platform.end()


def _pretrain_and_evaluate(
    client: Client, console: Console
) -> tuple[JobSchema, dict[tuple[str, str], JobSchema]]:
    pretrain = client.submit(load_recipe("digits"))
    jobs = {("pretrained", job.name): job for job in client.find(kind="evaluate").items}
    mine = {
        ("pretrained", str(job.spec["protocol"]["name"])): job
        for job in jobs.values()
        if pretrain.id in job.depends_on
    }
    for protocol in PROTOCOLS:
        mine["untrained", protocol] = client.submit(_untrained(protocol))
    progress = JobProgress(console)
    with progress.shown(), ThreadPoolExecutor(len(mine) + 1) as pool:

        def waited(job: JobSchema) -> JobSchema:
            return client.wait(job.id, watch=progress.update)

        pretrained, *ended = pool.map(waited, [pretrain, *mine.values()])
    for job in (pretrained, *ended):
        if job.state is not JobState.SUCCEEDED:
            raise PlatformError(f"job {job.name} is {job.state.value}: {job.reason}")
    return pretrained, dict(zip(mine, ended, strict=True))


def _untrained(protocol: str) -> dict[str, Any]:
    spec = load_recipe("digits-untrained")
    return spec | {"name": f"digits-untrained-{protocol}", "protocol": {"name": protocol}}


def _comparison(evaluations: dict[tuple[str, str], JobSchema]) -> Table:
    table = Table(title="top-1 on 360 held-out digits")
    table.add_column("encoder")
    for title in PROTOCOLS.values():
        table.add_column(title, justify="right")
    for encoder in ("untrained", "pretrained"):
        table.add_row(
            "random" if encoder == "untrained" else encoder,
            *(
                f"{evaluations[encoder, protocol].summary[f'{protocol}/top1']:.1%}"
                for protocol in PROTOCOLS
            ),
        )
    return table
