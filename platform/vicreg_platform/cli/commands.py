"""The command ``vicreg``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vicreg_platform.cli import tables
from vicreg_platform.client import ApiError, Client
from vicreg_platform.database import Database
from vicreg_platform.errors import PlatformError
from vicreg_platform.jobs.schemas import TrialSort
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.schemas import Role
from vicreg_platform.recipes import recipe_names, recipe_text
from vicreg_platform.settings import Settings
from vicreg_platform.specs import spec_schema

app = typer.Typer(
    help="Pretrain image encoders with VICReg, and evaluate them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
# A pipe has no width of its own: tables must not be folded to 80 columns there.
console = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True)

ApiUrl = Annotated[str, typer.Option("--api", envvar="VICREG_API_URL", help="Address of the API.")]
DEFAULT_API = "http://127.0.0.1:8000"
Answer = TypeVar("Answer")
JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


@app.command()
def up(
    api_port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder that specs' paths start from. Default: HOME/data")
    ] = None,
    home: Annotated[
        Path, typer.Option(envvar="VICREG_HOME", help="Where everything is kept.")
    ] = Path(".vicreg"),
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs for jobs. Default: the machine's")
    ] = None,
) -> None:
    """Run the whole platform on this machine, until Ctrl-C."""
    import logging

    from vicreg_platform.cli.local import LocalOptions, LocalPlatform, interrupt_on_signals

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.ERROR)
    ending = threading.Event()
    interrupt_on_signals()
    root = data_root or home / "data"
    platform = LocalPlatform(LocalOptions(home, root, api_port, mlflow_port, cpus))
    try:
        with console.status("starting") as status:
            platform.start(lambda checks: status.update(_starting(checks)))
        console.print(f"[bold green]ready[/]  API            {platform.api_url} (docs: /docs)")
        console.print(f"       MLflow         {platform.mlflow_url}")
        console.print(f"       Ray dashboard  {platform.ray_url}")
        console.print(f"       data root      {root.absolute()}")
        console.print(f"       logs           {platform.logs}")
        console.print("Ctrl-C ends everything.")
        ending.wait()
    except KeyboardInterrupt:
        console.print("ending")
    finally:
        # A second Ctrl-C must not leave half of it behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        platform.end()


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option(envvar="KEEP", help="Leave the platform running at the end.")
    ] = False,
    home: Annotated[
        Path, typer.Option(envvar="VICREG_HOME", help="Where everything is kept.")
    ] = Path(".vicreg"),
) -> None:
    """Show all of it on one machine in a few minutes: digits, two workers, two evaluations."""
    from vicreg_platform.cli.demo import run_demo

    run_demo(console, home, keep)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="A spec, YAML or JSON; - reads standard input.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show progress until the job has ended.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print the resolved spec and store nothing.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Submit a job, or each of the jobs of a file with several YAML documents."""
    specs = _read_specs(file)
    with Client(api, wait_seconds=30.0 if follow else 0.0) as client:
        # All are checked before the first one is stored.
        if dry_run or len(specs) > 1:
            checks = [
                _naming_faults(file, document, partial(client.check, spec))
                for document, spec in enumerate(specs)
            ]
        if dry_run:
            for check in checks:
                for warning in check.warnings:
                    errors.print(f"[yellow]warning[/]: {warning}")
                console.print_json(data=check.spec)
            return
        jobs = [
            _naming_faults(file, document, partial(client.submit, spec))
            for document, spec in enumerate(specs)
        ]
        if not follow:
            for job in jobs:
                console.print(job.id)
            return
        for place, job in enumerate(jobs):
            errors.print(f"job {job.id}")
            with tables.JobProgress(console).shown() as progress:
                jobs[place] = client.wait(job.id, watch=progress.update)
            console.print(tables.job_table(jobs[place]))
        succeeded = all(job.state is JobState.SUCCEEDED for job in jobs)
        raise typer.Exit(0 if succeeded else 1)


@app.command()
def jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="One or more.")] = None,
    kind: Annotated[str | None, typer.Option(help="pretrain, evaluate or sweep")] = None,
    experiment: Annotated[str | None, typer.Option()] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value, one or more.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {
        "state": [each.value for each in state or []],
        "kind": kind,
        "experiment": experiment,
        "label": label or [],
        "limit": limit,
    }
    with Client(api) as client:
        page = client.find(**{name: value for name, value in filters.items() if value})
    console.print(tables.jobs_table(page.items))


@app.command()
def show(
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="The API's answer.")] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Show one job."""
    with Client(api) as client:
        job = client.get(job_id)
    if as_json:
        console.print_json(job.model_dump_json())
    else:
        console.print(tables.job_table(job))


@app.command()
def trials(
    job_id: JobId,
    sort: Annotated[TrialSort, typer.Option(help="By what they are listed.")] = TrialSort.RANK,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the sweep has ended.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """List a sweep's trials, best first."""
    with Client(api, wait_seconds=30.0 if follow else 0.0) as client:

        def table() -> Table:
            sweep = client.get(job_id)
            return tables.trials_table(sweep, client.trials(job_id, sort=sort, limit=limit).items)

        if not follow:
            console.print(table())
            return
        with Live(table(), console=console, auto_refresh=False) as live:
            client.wait(job_id, watch=lambda job: live.update(table(), refresh=True))
            live.update(table(), refresh=True)


@app.command()
def promote(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Train the best configuration of an ended sweep, with its base's evaluations."""
    with Client(api) as client:
        console.print(client.promote(job_id).id)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Print what a job has printed."""
    with Client(api) as client:
        for text in client.follow_logs(job_id) if follow else [client.logs(job_id)]:
            sys.stdout.write(text)
            sys.stdout.flush()


@app.command()
def cancel(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """End a job."""
    with Client(api) as client:
        console.print(client.cancel(job_id).state.value)


@app.command()
def retry(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Make a new job that goes on from the last checkpoint of a failed or cancelled one."""
    with Client(api) as client:
        console.print(client.retry(job_id).id)


schedules = typer.Typer(help="List schedules, or change one.")
app.add_typer(schedules, name="schedules")
ScheduleId = Annotated[str, typer.Argument(help="The schedule's id.", show_default=False)]


@schedules.callback(invoke_without_command=True)
def list_schedules(context: typer.Context, api: ApiUrl = DEFAULT_API) -> None:
    """List schedules, newest first, with their next and last runs."""
    if context.invoked_subcommand is None:
        with Client(api) as client:
            console.print(tables.schedules_table(client.schedules(limit=200).items))


@schedules.command("create")
def create_schedule(
    file: Annotated[Path, typer.Argument(help="A schedule, YAML or JSON; - reads standard input.")],
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Make a schedule, or each of those of a file with several YAML documents."""
    with Client(api) as client:
        for document, spec in enumerate(_read_specs(file)):
            made = _naming_faults(file, document, partial(client.create_schedule, spec))
            console.print(made.id)


@schedules.command("show")
def show_schedule(
    schedule_id: ScheduleId,
    preview: Annotated[int, typer.Option(min=0, max=100, help="Next times to show.")] = 5,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Show one schedule: its next times, and what became of the last ones."""
    with Client(api) as client:
        schedule = client.schedule(schedule_id, preview)
        console.print(tables.schedule_table(schedule, client.ticks(schedule_id, limit=10).items))


@schedules.command("pause")
def pause_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Make no more jobs until it is resumed."""
    with Client(api) as client:
        console.print(client.pause_schedule(schedule_id).state.value)


@schedules.command("resume")
def resume_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Make jobs again, from the next time on."""
    with Client(api) as client:
        console.print(client.resume_schedule(schedule_id).state.value)


@schedules.command("run-now")
def run_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Make a job besides those of the schedule's times."""
    with Client(api) as client:
        console.print(client.run_schedule(schedule_id).id)


@schedules.command("delete")
def delete_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Remove a schedule; the jobs that it has made stay, and go on."""
    with Client(api) as client:
        client.delete_schedule(schedule_id)


keys = typer.Typer(help="List API keys, or make or revoke one (administrators).")
app.add_typer(keys, name="keys")


@keys.callback(invoke_without_command=True)
def list_keys(context: typer.Context, api: ApiUrl = DEFAULT_API) -> None:
    """List API keys, newest first."""
    if context.invoked_subcommand is None:
        with Client(api) as client:
            console.print(tables.keys_table(client.keys()))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Whose it is.")],
    role: Annotated[Role, typer.Option()] = Role.USER,
    expires_in_days: Annotated[int | None, typer.Option(min=1)] = None,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="Jobs at once that have not ended.")
    ] = None,
    max_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs for them.")] = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Make a key, and print it: it is never shown again."""
    limits = {
        "expires_in": None if expires_in_days is None else expires_in_days * 86400,
        "max_jobs": max_jobs,
        "max_gpus": max_gpus,
    }
    with Client(api) as client:
        made = client.create_key(name, role.value, **limits)
    errors.print(f"key {made.prefix} of {escape(made.name)}, {made.role.value}: keep it well")
    print(made.key)


@keys.command("revoke")
def revoke_key(
    prefix: Annotated[str, typer.Argument(help="The key's public part.")],
    api: ApiUrl = DEFAULT_API,
) -> None:
    """End a key's use."""
    with Client(api) as client:
        client.revoke_key(prefix)


@app.command()
def migrate() -> None:
    """Bring the database up to date (VICREG_DATABASE_URL)."""
    Database(Settings.from_environment().database_url).migrate(wait_seconds=60.0)


@app.command()
def check_dispatcher() -> None:
    """Fail unless a dispatcher is at work on the database (VICREG_DATABASE_URL)."""
    from vicreg_platform.dispatch.lease import lease_is_held

    if not lease_is_held(Database(Settings.from_environment().database_url)):
        raise PlatformError("no dispatcher is at work")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the spec."""
    print(json.dumps(spec_schema(), indent=2))


@app.command()
def export(
    encoder: Annotated[str, typer.Argument(help="A pretraining job, or models:/NAME/VERSION.")],
    file: Annotated[
        Path, typer.Argument(help="Its suffix is the format: .safetensors, .pth, .pt or .onnx.")
    ],
    mlflow: Annotated[
        str, typer.Option(envvar="VICREG_MLFLOW_URL", help="Address of the MLflow server.")
    ] = "http://127.0.0.1:5000",
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Write a finished encoder to a file that needs nothing of this platform."""
    source = encoder
    if not encoder.startswith("models:/"):
        with Client(api) as client:
            job = client.get(encoder)
        if job.kind != "pretrain" or job.state is not JobState.SUCCEEDED or job.mlflow is None:
            raise PlatformError(f"job {job.id} has made no encoder: it is {job.kind}, {job.state}")
        source = job.mlflow.run_id
    # The control plane has no torch: what has it is another process.
    done = subprocess.run(
        [sys.executable, "-m", "vicreg_workers.export", source, str(file), "--mlflow", mlflow],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PlatformError(done.stderr.strip().rpartition("\n")[2])


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="Default: list them.")] = None,
) -> None:
    """Print a ready spec."""
    print(recipe_text(name) if name else "\n".join(recipe_names()), end="" if name else "\n")


def _starting(checks: dict[str, str]) -> str:
    missing = [name for name, answer in checks.items() if answer != "ok"]
    return f"starting: {', '.join(missing)}"


def _naming_faults(file: Path, document: int, call: Callable[[], Answer]) -> Answer:
    """What ``call`` answers; the faults of a refused spec are named with their lines."""
    try:
        return call()
    except ApiError as error:
        if str(file) == "-" or not error.problem.get("errors"):
            raise
        tables.print_faults(errors, file, document, error)
        raise typer.Exit(2) from None


def _read_specs(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        specs = [spec for spec in yaml.safe_load_all(text) if spec is not None]
    except OSError as error:
        raise PlatformError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PlatformError(f"{file} is neither YAML nor JSON: {error}") from None
    if not specs or not all(isinstance(spec, dict) for spec in specs):
        raise PlatformError(f"{file} holds no spec: it must be a mapping of fields")
    return specs


def main() -> None:
    """Run the command; a failure that is known prints one message, not a traceback."""
    try:
        app()
    except PlatformError as error:
        errors.print(f"[bold red]error[/]: {escape(str(error))}", highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
