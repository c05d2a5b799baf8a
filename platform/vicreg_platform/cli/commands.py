"""The commands of ``vicreg``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from vicreg_platform.cli import output
from vicreg_platform.cli.faults import print_faults
from vicreg_platform.client import ApiError, Client
from vicreg_platform.contract.data_report import DataReport
from vicreg_platform.contract.model_facts import Evaluated, FolderFormat, ModelFacts
from vicreg_platform.database import Database
from vicreg_platform.documents import load_yaml, load_yaml_all
from vicreg_platform.errors import InvalidRequest, PlatformError
from vicreg_platform.jobs.registration import SCORES, measures_the_end, read_requirement
from vicreg_platform.jobs.schemas import ExtensionSchedule, JobSchema, TrialSort
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.schemas import Role
from vicreg_platform.recipes import recipe_names, recipe_text
from vicreg_platform.settings import Settings
from vicreg_platform.specs import PretrainSpec, spec_schema
from vicreg_platform.specs.base import field_faults
from vicreg_platform.specs.overrides import overridden
from vicreg_platform.specs.pretrain import Evaluation
from vicreg_platform.specs.stored import read_spec

app = typer.Typer(
    help="Pretrain image encoders with VICReg, and evaluate them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# A pipe has no width: tables must not be folded to 80 columns there.
console = Console(width=None if sys.stdout.isatty() else 160)
errors = Console(stderr=True, soft_wrap=True)

ApiUrl = Annotated[str, typer.Option("--api", envvar="VICREG_API_URL", help="Address of the API.")]
DEFAULT_API = "http://127.0.0.1:8000"
Answer = TypeVar("Answer")
JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="JOB", show_default=False)]


@app.command()
def up(
    api_port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder that specs' paths start from. Default: HOME/data"),
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
        console.print(f"[bold green]ready[/]  console        {platform.api_url}")
        console.print(f"       API            {platform.api_url}/v1 (reference: /docs)")
        console.print(f"       MLflow         {platform.mlflow_url}")
        console.print(f"       Ray dashboard  {platform.ray_url} (its token: {home}/ray-token)")
        console.print(f"       API key        {home}/api-key (sign in with it; commands find it)")
        console.print(f"       data root      {root.absolute()}")
        console.print(f"       logs           {platform.logs}")
        console.print("Ctrl-C stops everything.")
        ending.wait()
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        platform.end()


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option(envvar="KEEP", help="Leave the platform running afterwards.")
    ] = False,
    home: Annotated[
        Path, typer.Option(envvar="VICREG_HOME", help="Where everything is kept.")
    ] = Path(".vicreg"),
) -> None:
    """Run the whole platform once: pretrain on digits with two workers, and evaluate twice."""
    from vicreg_platform.cli.demo import run_demo

    run_demo(console, home, keep)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="A spec, YAML or JSON; - reads standard input.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show progress until the job has finished.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the resolved spec; store nothing.")] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Submit a job, or the jobs of a file with several YAML documents."""
    specs = _read_specs(file)
    with Client(api, wait_seconds=30.0 if follow else 0.0) as client:
        # All are checked before the first is stored.
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
                errors.print(output.start_line(check))
                if check.spec["kind"] == "pretrain":
                    errors.print(escape(output.cost_line(check)))
            return
        jobs = [
            _naming_faults(file, document, partial(client.submit, spec))
            for document, spec in enumerate(specs)
        ]
        if not follow:
            for job in jobs:
                console.print(job.id)
                # Beside the id, which scripts read.
                errors.print(f"{api}/jobs/{job.id}", soft_wrap=True)
            return
        for place, job in enumerate(jobs):
            errors.print(f"job {job.id}: {api}/jobs/{job.id}", soft_wrap=True)
            with output.JobProgress(console).shown() as progress:
                jobs[place] = client.wait(job.id, watch=progress.update)
            console.print(output.job_table(jobs[place]))
        succeeded = all(job.state is JobState.SUCCEEDED for job in jobs)
        raise typer.Exit(0 if succeeded else 1)


@app.command()
def jobs(
    state: Annotated[list[JobState] | None, typer.Option(help="One or more.")] = None,
    kind: Annotated[str | None, typer.Option(help="pretrain, evaluate or sweep")] = None,
    experiment: Annotated[str | None, typer.Option()] = None,
    label: Annotated[list[str] | None, typer.Option(help="key=value, one or more.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    counts: Annotated[
        bool, typer.Option("--counts", help="How many there are of each state, instead.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """List jobs, newest first."""
    filters: dict[str, Any] = {
        "state": [each.value for each in state or []],
        "kind": kind,
        "experiment": experiment,
        "label": label or [],
    }
    given = {name: value for name, value in filters.items() if value}
    with Client(api) as client:
        if counts:
            console.print(output.counts_table(client.counts(**given)))
        else:
            console.print(output.jobs_table(client.find(**given, limit=limit).items))


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
        console.print(output.job_table(job))


@app.command()
def trials(
    job_id: JobId,
    sort: Annotated[TrialSort, typer.Option(help="The order of the list.")] = TrialSort.RANK,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Update until the sweep has finished.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """List a sweep's trials, best first."""
    with Client(api, wait_seconds=30.0 if follow else 0.0) as client:

        def table() -> Table:
            sweep = client.get(job_id)
            return output.trials_table(sweep, client.trials(job_id, sort=sort, limit=limit).items)

        if not follow:
            console.print(table())
            return
        with Live(table(), console=console, auto_refresh=False) as live:
            client.wait(job_id, watch=lambda job: live.update(table(), refresh=True))
            live.update(table(), refresh=True)


@app.command()
def checkpoints(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """List the checkpoints of a pretraining, newest first."""
    with Client(api) as client:
        console.print(output.checkpoints_table(client.checkpoints(job_id)))


@app.command()
def promote(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Train the best configuration of a finished sweep, with its base's evaluations."""
    with Client(api) as client:
        console.print(client.promote(job_id).id)


@app.command()
def register(
    job_id: JobId,
    model: Annotated[
        str, typer.Argument(help="The registered model; it is created if there is none.")
    ],
    alias: Annotated[
        str | None, typer.Option(help="Moved to the version, such as candidate.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="What a metric must be, one or more: --require 'knn/top1>=0.6'"),
    ] = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Register a succeeded pretraining's encoder in MLflow, with its scores as tags."""
    gate: dict[str, dict[str, float]] = {}
    for text in require or ():
        for metric, bounds in read_requirement(text).items():
            gate.setdefault(metric, {}).update(bounds)
    with Client(api) as client:
        made = client.register(job_id, model, alias, gate)
    console.print(f"models:/{made.name}/{made.version}")
    errors.print(made.url)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until the job has finished.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Print the log of a job."""
    with Client(api) as client:
        for text in client.follow_logs(job_id) if follow else [client.logs(job_id)]:
            sys.stdout.write(text)
            sys.stdout.flush()


@app.command()
def cancel(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Cancel a job."""
    with Client(api) as client:
        console.print(client.cancel(job_id).state.value)


Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE, one or more: --set training.epochs=5"),
]


@app.command()
def pause(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Free what a job occupies until it is resumed; it saves the step that it is at."""
    with Client(api) as client:
        console.print(client.pause(job_id).state.value)


@app.command()
def resume(
    job_id: JobId,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Of a pretraining. Default: as before")
    ] = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Resume a paused job from the step at which it was paused."""
    with Client(api) as client:
        console.print(client.resume(job_id, workers).state.value)


@app.command()
def change(job_id: JobId, changes: Changes = None, api: ApiUrl = DEFAULT_API) -> None:
    """Change a job: --set priority=5, labels.KEY, preemptible, max_runtime, deadline.

    Of a sweep, also search.trials (more) and concurrency.
    """
    with Client(api) as client:
        changed = client.change(job_id, overridden({}, _read_changes(changes)))
        console.print(f"version {changed.version}")


@app.command()
def extend(
    job_id: JobId,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of a pretraining: of the whole training.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of a sweep: those tried already included.")
    ] = None,
    schedule: Annotated[
        ExtensionSchedule | None,
        typer.Option(
            help="How a pretraining's learning rate continues: as in one run (the default), or "
            "rising once more."
        ),
    ] = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Train a succeeded pretraining on, or give a succeeded sweep more trials, as a new job."""
    with Client(api) as client:
        if epochs is not None and trials is None:
            made = client.extend(job_id, epochs, (schedule or ExtensionSchedule.ANNEAL).value)
        elif trials is not None and epochs is None and schedule is None:
            made = client.add_trials(job_id, trials)
        else:
            raise InvalidRequest(
                "give --epochs, and --schedule, for a pretraining, or --trials for a sweep"
            )
    for warning in made.warnings:
        errors.print(f"[yellow]warning[/]: {escape(warning)}")
    console.print(made.job.id)


@app.command()
def queue(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 30,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Update every second, until Ctrl-C.")
    ] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Show the jobs that wait for room, in the scheduler's order, and those that occupy it."""
    with Client(api, wait_seconds=30.0 if follow else 0.0) as client:
        if not follow:
            console.print(output.queue_table(client.queue(limit)))
            return
        with (
            suppress(KeyboardInterrupt),
            Live(console=console, auto_refresh=False) as live,
        ):
            while True:
                live.update(output.queue_table(client.queue(limit)), refresh=True)
                time.sleep(1.0)


@app.command()
def retry(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """Retry a failed or cancelled job: a new job resumes from its last checkpoint."""
    with Client(api) as client:
        console.print(client.retry(job_id).id)


@app.command()
def clone(job_id: JobId, changes: Changes = None, api: ApiUrl = DEFAULT_API) -> None:
    """Submit the spec of a job again, with some fields changed."""
    with Client(api) as client:
        console.print(client.clone(job_id, _read_changes(changes)).id)


@app.command()
def evaluate(
    job_id: JobId,
    protocol: Annotated[
        str | None, typer.Option(help="knn (the default), linear, svm, finetune, …")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Several protocols instead: paper")] = None,
    changes: Changes = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Evaluate the encoder of a pretraining job, on its own data and the test set beside it."""
    option = "--protocol" if suite is None else "--suite"
    wanted = (
        {"protocol": {"name": protocol or "knn"}}
        if suite is None
        else {"suite": suite} | ({} if protocol is None else {"protocol": {"name": protocol}})
    )
    with Client(api) as client:
        job = client.get(job_id)
        spec = read_spec(job.spec, job.spec_version)
        if not isinstance(spec, PretrainSpec):
            raise PlatformError(f"job {job.id} is not a pretraining: it has no encoder to evaluate")
        try:
            evaluations = spec.evaluations_of(job.id, Evaluation.model_validate(wanted))
        except ValidationError as error:
            fault = field_faults(Evaluation, wanted, error)[0]
            raise PlatformError(f"{option}: {fault.message}") from None
        except ValueError as error:
            raise PlatformError(f"{error}: submit an evaluate spec that names them") from None
        for evaluation in evaluations:
            request = evaluation.model_dump(mode="json")
            console.print(client.submit(overridden(request, _read_changes(changes))).id)


@app.command()
def events(job_id: JobId, api: ApiUrl = DEFAULT_API) -> None:
    """List the events of a job, oldest first."""
    with Client(api) as client:
        console.print(output.events_table(list(client.events(job_id))))


@app.command()
def metrics(
    job_id: JobId,
    key: Annotated[list[str] | None, typer.Option(help="One or more. Default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every point of the curves.")] = False,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Show the metrics of a job: last value and range of each curve."""
    with Client(api) as client:
        curves = client.metrics(job_id, *(key or ()))
    if as_json:
        console.print_json(data=curves)
    else:
        console.print(output.metrics_table(curves))


@app.command()
def cluster(api: ApiUrl = DEFAULT_API) -> None:
    """Show the nodes of the Ray cluster, and what is in use."""
    with Client(api) as client:
        console.print(output.cluster_table(client.cluster()))


schedules = typer.Typer(help="List schedules, or change one.")
app.add_typer(schedules, name="schedules")
ScheduleId = Annotated[
    str, typer.Argument(help="The schedule's id.", metavar="SCHEDULE", show_default=False)
]


@schedules.callback(invoke_without_command=True)
def list_schedules(context: typer.Context, api: ApiUrl = DEFAULT_API) -> None:
    """List schedules, newest first, with their next and last runs."""
    if context.invoked_subcommand is None:
        with Client(api) as client:
            console.print(output.schedules_table(client.schedules(limit=200).items))


@schedules.command("create")
def create_schedule(
    file: Annotated[Path, typer.Argument(help="A schedule, YAML or JSON; - reads standard input.")],
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Create a schedule, or the schedules of a file with several YAML documents."""
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
    """Show one schedule: its next times, and the outcomes of the last ones."""
    with Client(api) as client:
        schedule = client.schedule(schedule_id, preview)
        console.print(output.schedule_table(schedule, client.ticks(schedule_id, limit=10).items))


@schedules.command("pause")
def pause_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Submit no more jobs until the schedule is resumed."""
    with Client(api) as client:
        console.print(client.pause_schedule(schedule_id).state.value)


@schedules.command("resume")
def resume_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Submit jobs again, from the next time on."""
    with Client(api) as client:
        console.print(client.resume_schedule(schedule_id).state.value)


@schedules.command("run-now")
def run_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Submit a job now, besides those of the schedule's times."""
    with Client(api) as client:
        console.print(client.run_schedule(schedule_id).id)


@schedules.command("delete")
def delete_schedule(schedule_id: ScheduleId, api: ApiUrl = DEFAULT_API) -> None:
    """Delete a schedule; its jobs stay, and continue."""
    with Client(api) as client:
        client.delete_schedule(schedule_id)


keys = typer.Typer(help="List API keys; create or revoke one (administrators).")
app.add_typer(keys, name="keys")


@keys.callback(invoke_without_command=True)
def list_keys(context: typer.Context, api: ApiUrl = DEFAULT_API) -> None:
    """List API keys, newest first."""
    if context.invoked_subcommand is None:
        with Client(api) as client:
            console.print(output.keys_table(client.keys()))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="Its owner.")],
    role: Annotated[Role, typer.Option()] = Role.USER,
    expires_in_days: Annotated[int | None, typer.Option(min=1)] = None,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="Unfinished jobs at once.")] = None,
    max_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs that they may request.")] = None,
    max_priority: Annotated[
        int | None, typer.Option(min=-1000, max=1000, help="Of its jobs.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(min=0.01, max=100.0, help="Of its owner's share. Default: 1")
    ] = None,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Create a key and print it; it is never shown again."""
    limits = {
        "expires_in": None if expires_in_days is None else expires_in_days * 86400,
        "max_jobs": max_jobs,
        "max_gpus": max_gpus,
        "max_priority": max_priority,
        "weight": weight,
    }
    with Client(api) as client:
        made = client.create_key(name, role.value, **limits)
    errors.print(f"key {made.prefix} of {escape(made.name)}, {made.role.value}: keep it safe")
    print(made.key)


@keys.command("revoke")
def revoke_key(
    prefix: Annotated[str, typer.Argument(help="The key's public part.")],
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Revoke a key."""
    with Client(api) as client:
        client.revoke_key(prefix)


@app.command()
def migrate() -> None:
    """Migrate the database to this version (VICREG_DATABASE_URL)."""
    Database(Settings.from_environment().database_url).migrate(wait_seconds=60.0)


@app.command()
def check_dispatcher() -> None:
    """Exit with 1 unless a dispatcher is running on the database (VICREG_DATABASE_URL)."""
    from vicreg_platform.dispatch.lease import lease_is_held

    if not lease_is_held(Database(Settings.from_environment().database_url)):
        raise PlatformError("no dispatcher is running")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the spec."""
    print(json.dumps(spec_schema(), indent=2))


MlflowUrl = Annotated[
    str, typer.Option("--mlflow", envvar="VICREG_MLFLOW_URL", help="Address of the MLflow server.")
]
DEFAULT_MLFLOW = "http://127.0.0.1:5000"
License = Annotated[
    str, typer.Option("--license", help="Of the encoder, for its model card: as the Hub names it.")
]


@app.command()
def export(
    encoder: Annotated[
        str, typer.Argument(help="A pretraining job, or models:/NAME/VERSION or @ALIAS for a file.")
    ],
    path: Annotated[
        Path,
        typer.Argument(
            help="A file, whose suffix is its format: .safetensors, .pth, .pt or .onnx; with "
            "--format, a folder."
        ),
    ],
    form: Annotated[
        FolderFormat | None,
        typer.Option("--format", help="Write a folder that timm or transformers load."),
    ] = None,
    license_: License = "other",
    mlflow: MlflowUrl = DEFAULT_MLFLOW,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Write an encoder to a file, or to a folder with a model card, to use it elsewhere."""
    if encoder.startswith("models:/"):
        if form is not None:
            raise PlatformError("a folder has a model card of its job: name the job instead")
        _export("export", [encoder, str(path), "--mlflow", mlflow])
        return
    with Client(api) as client:
        job, run_id = _trained(client, encoder)
        facts = None if form is None else _facts(client, job, license_)
    options = [] if form is None else ["--format", form.value]
    _export("export", [run_id, str(path), "--mlflow", mlflow, *options], facts)


@app.command()
def push(
    job_id: JobId,
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Such as user/name; created if there is none.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Only its owner may see it.")] = False,
    license_: License = "other",
    mlflow: MlflowUrl = DEFAULT_MLFLOW,
    api: ApiUrl = DEFAULT_API,
) -> None:
    """Upload an encoder and its model card to the Hugging Face Hub, with the token HF_TOKEN."""
    with Client(api) as client:
        job, run_id = _trained(client, job_id)
        facts = _facts(client, job, license_)
    options = ["--private"] if private else []
    _export("push", [run_id, repository, "--mlflow", mlflow, *options], facts)


class Device(StrEnum):
    """What to compute on."""

    CPU = "cpu"
    CUDA = "cuda"


@app.command()
def replay(
    job_id: JobId,
    device: Annotated[
        Device | None,
        typer.Option(help="What to compute on. Default: as the training, if there is a GPU for it"),
    ] = None,
    storage: Annotated[
        str,
        typer.Option(envvar="VICREG_STORAGE", help="Where the jobs' folders are: a path or URL."),
    ] = ".vicreg/storage",
) -> None:
    """Repeat the step at which a pretraining diverged, and name the first non-finite tensor."""
    print(_in_worker("replay", [job_id], {"--storage": storage, "--device": device}), end="")


def _trained(client: Client, job_id: str) -> tuple[JobSchema, str]:
    """A pretraining that has succeeded, and its run."""
    job = client.get(job_id)
    if job.kind != "pretrain" or job.state is not JobState.SUCCEEDED or job.mlflow is None:
        raise PlatformError(f"job {job.id} has no encoder: it is a {job.kind} job, {job.state}")
    return job, job.mlflow.run_id


def _facts(client: Client, job: JobSchema, license_: str) -> ModelFacts:
    found = client.find_all(parent=job.id, kind="evaluate", state="succeeded", order="asc")
    curves = client.metrics(job.id, "train/loss")
    return ModelFacts(
        job=job.id,
        name=job.name,
        spec=job.spec,
        scores=_scores(job),
        evaluations=[
            Evaluated(protocol=each.spec["protocol"], data=each.spec["data"], scores=_scores(each))
            for each in found
            if measures_the_end(each)
        ],
        loss=[(int(point["step"]), point["value"]) for point in curves.get("train/loss", [])],
        license=license_,
    )


def _scores(job: JobSchema) -> dict[str, float]:
    return {name: value for name, value in job.summary.items() if name.startswith(SCORES)}


def _export(module: str, arguments: list[str], facts: ModelFacts | None = None) -> None:
    # The control plane has no torch: the export runs in a process that has.
    done = subprocess.run(
        [sys.executable, "-m", f"vicreg_workers.{module}", *arguments],
        input="" if facts is None else facts.model_dump_json(),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PlatformError(done.stderr.strip().rpartition("\n")[2])


data = typer.Typer(help="Look at training images, or pack them.", no_args_is_help=True)
app.add_typer(data, name="data")
Source = Annotated[
    str,
    typer.Argument(
        help="A folder of images; a folder or pattern of .tar shards; a folder or file of .parquet "
        "or .arrow; an s3://, gs://, https:// or http:// pattern of shards; "
        "torchvision:CLASS:FOLDER; or a spec with a section `data`.",
        metavar="SOURCE",
        show_default=False,
    ),
]
Processes = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes. Default: the CPUs")
]
SpecDataRoot = Annotated[
    Path,
    typer.Option(
        "--data-root", envvar="VICREG_DATA_ROOT", help="Folder that a spec's paths start from."
    ),
]
DEFAULT_DATA_ROOT = Path(".vicreg/data")


@data.command("check")
def check_data(
    source: Source,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=8, max=1024, help="Side of a view, in pixels. Default: the spec's; of a folder, 224"
        ),
    ] = None,
    gpu_rate: Annotated[
        float | None,
        typer.Option(min=0.0, help="Images that a GPU trains on in a second, of two views each."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Images to read, evenly spread. Default: all")
    ] = None,
    workers: Processes = None,
    data_root: SpecDataRoot = DEFAULT_DATA_ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Report what a set of images is, and how fast it loads.

    Broken, duplicate, EXIF-rotated and non-RGB images are counted, and the first ones named.
    """
    options = {
        "--image-size": image_size,
        "--gpu-rate": gpu_rate,
        "--limit": limit,
        "--workers": workers,
        "--data-root": data_root,
    }
    report = DataReport.model_validate_json(_in_worker("data.check", [source], options))
    if as_json:
        console.print_json(report.model_dump_json())
    else:
        console.print(output.data_table(report))


@data.command("pack")
def pack_data(
    source: Source,
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A folder for the shards.", show_default=False)
    ],
    shard_mb: Annotated[
        int,
        typer.Option(
            min=1,
            help="Size of a shard, in 10⁶ bytes; estimated from a sample if the images' sizes "
            "are not known beforehand, as with --short-side.",
        ),
    ] = 256,
    short_side: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Resize images whose shorter side has more pixels, and store them upright, in "
            "RGB, as JPEG. Default: copy all",
        ),
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of that JPEG.")] = 95,
    workers: Processes = None,
    data_root: SpecDataRoot = DEFAULT_DATA_ROOT,
) -> None:
    """Pack images into tar shards.

    They are for `source: webdataset`, in a mixed order, with an index and a manifest beside them.
    JPEG, PNG and WebP files are copied as they are; others are stored as PNG, upright and in RGB.
    Images that cannot be read are left out. The same command resumes an interrupted one.
    """
    options = {
        "--shard-mb": shard_mb,
        "--short-side": short_side,
        "--quality": quality,
        "--workers": workers,
        "--data-root": data_root,
    }
    print(_in_worker("data.pack", [source, str(destination)], options), end="")


@app.command()
def recipe(
    name: Annotated[str | None, typer.Argument(help="Default: list them.")] = None,
) -> None:
    """Print a ready-made spec."""
    print(recipe_text(name) if name else "\n".join(recipe_names()), end="" if name else "\n")


def _in_worker(module: str, arguments: list[str], options: Mapping[str, object]) -> str:
    """What a module of the workers prints: the control plane has no torch.

    Its progress and its messages go to standard error; if it fails, the command ends with its code.
    """
    command = [sys.executable, "-m", f"vicreg_workers.{module}"]
    command += [f"{name}={value}" for name, value in options.items() if value is not None]
    with subprocess.Popen([*command, "--", *arguments], stdout=subprocess.PIPE) as process:
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            # Ctrl-C reaches it too, and it leaves nothing half done.
            process.wait()
            raise
    if process.returncode:
        raise typer.Exit(process.returncode)
    return printed.decode()


def _starting(checks: dict[str, str]) -> str:
    missing = [name for name, answer in checks.items() if answer != "ok"]
    return f"starting: {', '.join(missing)}"


def _naming_faults(file: Path, document: int, call: Callable[[], Answer]) -> Answer:
    """What ``call`` returns; the faults of a refused spec are printed with their lines."""
    try:
        return call()
    except ApiError as error:
        if str(file) == "-" or not error.problem.get("errors"):
            raise
        print_faults(errors, file, document, error)
        raise typer.Exit(2) from None


def _read_changes(changes: list[str] | None) -> dict[str, Any]:
    """Values by dotted field names, from FIELD=VALUE with the value in YAML."""
    read: dict[str, Any] = {}
    for change in changes or ():
        field, separator, value = change.partition("=")
        if not separator or not field:
            raise PlatformError(f"--set {change}: must be FIELD=VALUE")
        try:
            read[field] = load_yaml(value)
        except PlatformError as error:
            raise PlatformError(f"--set {change}: {error}") from None
    return read


def _read_specs(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        specs = [spec for spec in load_yaml_all(text) if spec is not None]
    except OSError as error:
        raise PlatformError(f"cannot read {file}: {error.strerror}") from None
    except (InvalidRequest, UnicodeDecodeError) as error:
        raise PlatformError(f"{file}: {error}") from None
    if not specs or not all(isinstance(spec, dict) for spec in specs):
        raise PlatformError(f"{file} holds no spec: it must be a mapping of fields")
    return specs


def main() -> None:
    """Run the command; a known failure prints one message instead of a traceback."""
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
