"""What the command line shows: tables and progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table

from vicreg_platform.cluster.schemas import ClusterSchema
from vicreg_platform.contract.data_report import DataReport
from vicreg_platform.contract.trial import TrialState
from vicreg_platform.jobs.queue_schemas import QueueSchema
from vicreg_platform.jobs.schemas import (
    AttemptSchema,
    CheckpointSchema,
    CheckpointsSchema,
    CostBasis,
    Counts,
    DryRun,
    EventSchema,
    JobSchema,
    QueuePlace,
    TrialSchema,
)
from vicreg_platform.jobs.states import JobState
from vicreg_platform.keys.schemas import KeySchema
from vicreg_platform.schedules.schemas import ScheduleSchema, ScheduleState, TickSchema

STATE_COLOURS = {
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
    JobState.STOPPING: "yellow",
    JobState.PAUSED: "magenta",
}


class JobProgress:
    """Live lines, one per job: a bar with epoch, loss terms, images per second and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[state]}", table_column=Column(min_width=9, no_wrap=True)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[detail]}", table_column=Column(ratio=1)),
            console=console,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}

    @contextmanager
    def shown(self) -> Iterator[JobProgress]:
        """Show the lines."""
        with self._progress:
            yield self

    def update(self, job: JobSchema) -> None:
        """Update the line of a job."""
        if job.id not in self._tasks:
            self._tasks[job.id] = self._progress.add_task(
                escape(job.name), total=1.0, state="", detail=""
            )
        share = 1.0 if job.state is JobState.SUCCEEDED else _share(job)
        colour = STATE_COLOURS.get(job.state, "white")
        self._progress.update(
            self._tasks[job.id],
            completed=share,
            state=f"[{colour}]{job.state.value}[/]",
            detail=escape(_detail(job)),
        )


def _share(job: JobSchema) -> float:
    """How much of its steps, or of its images, a job has done, from 0 to 1."""
    return job.progress.step / max(1, job.progress.steps) if job.progress else 0.0


def _how_far(job: JobSchema) -> str:
    """The epoch of a training, the trials of a sweep, or the share of an evaluation's images."""
    if job.progress is None:
        return ""
    if job.kind == "evaluate":
        return f"{_share(job):.0%}"
    return f"{job.progress.epoch}/{job.progress.epochs}"


def _detail(job: JobSchema) -> str:
    if job.state in (JobState.FAILED, JobState.CANCELLED, JobState.QUEUED, JobState.WAITING):
        return job.reason or ""
    if job.kind == "evaluate" and job.ended:
        aside = ("_std", "learning_rate", "holdout_top1", "holdout_map")
        return "  ".join(
            f"{name} {value:.1%}"
            for name, value in job.summary.items()
            if name.startswith(f"{job.spec['protocol']['name']}/") and not name.endswith(aside)
        )
    if job.progress is None:
        return ""
    if job.kind == "sweep":
        best = job.summary.get("sweep/best")
        text = f"{_trials_finished(job)}, {_count(job.progress.step, 'epoch')}"
        return (
            text if best is None else f"{text}, best {job.spec['objective']['metric']} {best:.4g}"
        )
    parts = [f"epoch {_how_far(job)}" if job.kind == "pretrain" else _how_far(job)]
    if job.kind == "pretrain":
        for short, metric in (
            ("loss", "train/loss"),
            ("inv", "train/invariance"),
            ("var", "train/variance"),
            ("cov", "train/covariance"),
        ):
            if metric in job.summary:
                parts.append(f"{short} {job.summary[metric]:.3g}")
    parts.append(f"{job.progress.images_per_second:.0f} img/s")
    if not job.ended:
        parts.append(f"ETA {_duration(job.progress.eta_seconds)}")
    parts += [finding.name.replace("_", " ") for finding in job.progress.findings]
    return "  ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def jobs_table(jobs: list[JobSchema]) -> Table:
    """Jobs, one per row."""
    table = Table(box=None, pad_edge=False)
    for column in ("ID", "STATE", "KIND", "NAME", "EXPERIMENT", "PROGRESS", "REASON"):
        table.add_column(column, overflow="fold", no_wrap=column in ("ID", "STATE"))
    for job in jobs:
        table.add_row(
            job.id,
            _coloured(job.state),
            job.kind,
            escape(job.name),
            escape(job.experiment),
            _how_far(job),
            escape((job.reason or "")[:80]),
        )
    return table


def counts_table(counts: Counts) -> Table:
    """How many jobs there are of each state, and in all."""
    table = Table(box=None, pad_edge=False)
    table.add_column("STATE")
    table.add_column("JOBS", justify="right")
    for each in counts.items:
        table.add_row(escape(each.value or ""), f"{each.count:,}")
    table.add_row("all", f"{counts.total:,}")
    return table


def queue_table(queue: QueueSchema) -> Group:
    """The queue: who waits, and who holds what."""
    waiting = Table(box=None, pad_edge=False, title_justify="left")
    for column in ("#", "ID", "NAME", "OWNER", "PRIORITY", "NEEDS", "STARTS", "REASON"):
        waiting.add_column(column, overflow="fold", no_wrap=column in ("#", "ID", "STARTS"))
    for entry in queue.items:
        waiting.add_row(
            "" if entry.position is None else str(entry.position),
            entry.job_id,
            escape(entry.name),
            escape(entry.owner or ""),
            str(entry.priority),
            entry.needs,
            _expected(entry),
            escape(entry.reason or ""),
        )
    holding = Table(box=None, pad_edge=False)
    for column in ("ID", "NAME", "OWNER", "PRIORITY", "CPUS", "GPUS", "STATE", "ENDS"):
        holding.add_column(column, overflow="fold", no_wrap=column in ("ID", "ENDS"))
    for holder in queue.holders:
        holding.add_row(
            holder.job_id,
            escape(holder.name),
            escape(holder.owner or ""),
            str(holder.priority),
            f"{holder.cpus:g}",
            f"{holder.gpus:g}",
            _coloured(holder.state),
            "" if holder.ends is None else _until(holder.ends),
        )
    head = f"{queue.total} waiting, {len(queue.holders)} on the cluster; policy {queue.policy}"
    if queue.at is None:
        head += "; [yellow]the dispatcher has not looked for a minute: positions are unknown[/]"
    return Group(head, "", waiting, "", holding)


def start_line(check: DryRun) -> str:
    """When a job would start, in one line."""
    if check.reason is None and check.queue is not None:
        return "would start at once"
    if check.queue is None:
        return f"would start: unknown{f' ({check.reason})' if check.reason else ''}"
    place = f"would be number {check.queue.position} in the queue, which {check.reason}"
    expected = _expected(check.queue)
    return f"{place}; expected to start {expected}" if expected else place


def cost_line(check: DryRun) -> str:
    """What a pretraining would take, in one line."""
    cost = check.cost
    if cost is None:
        return "would train for: unknown (no run is known whose steps cost the same)"
    span = f"{cost.seconds:.0f} s" if cost.seconds < 60 else _hours(round(cost.seconds / 60))
    without = "queue and start"
    if cost.basis is CostBasis.RATE:
        without = "queue, start, measurements and checkpoints"
    memory = "" if cost.peak_memory is None else f", {cost.peak_memory / 2**30:.1f} GiB each"
    return (
        f"would train for {span} (without {without}) with {_count(cost.workers, 'worker')}"
        f"{memory}, at {cost.images_per_second:,.0f} img/s: "
        f"measured in job {cost.job}{f', on {cost.device}' if cost.device else ''}"
    )


def _expected(place: QueuePlace) -> str:
    if place.start is None:
        return ""
    return _until(place.start) + (" at the latest" if place.basis == "limit" else "")


def _until(at: datetime) -> str:
    minutes = max(0, round((at - datetime.now(UTC)).total_seconds() / 60))
    return f"in {_hours(minutes)}"


def _hours(minutes: int) -> str:
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def keys_table(keys: list[KeySchema]) -> Table:
    """API keys, one per row."""
    table = Table(box=None, pad_edge=False)
    limits = ("JOBS", "GPUS", "PRIORITY", "WEIGHT")
    for column in ("KEY", "NAME", "ROLE", *limits, "EXPIRES", "LAST USED", "REVOKED"):
        table.add_column(column, overflow="fold")
    for key in keys:
        table.add_row(
            key.prefix,
            escape(key.name),
            key.role.value,
            "" if key.max_jobs is None else str(key.max_jobs),
            "" if key.max_gpus is None else str(key.max_gpus),
            "" if key.max_priority is None else f"≤ {key.max_priority}",
            "" if key.weight is None else f"{key.weight:g}",
            *(
                "" if at is None else f"{at:%Y-%m-%d %H:%M}"
                for at in (key.expires_at, key.last_used_at, key.revoked_at)
            ),
        )
    return table


SCHEDULE_COLOURS = {ScheduleState.ACTIVE: "green", ScheduleState.PAUSED: "yellow"}


def schedules_table(schedules: list[ScheduleSchema]) -> Table:
    """Schedules, one per row, with times in their own time zones."""
    table = Table(box=None, pad_edge=False)
    for column in ("ID", "STATE", "NAME", "CRON", "RUNS", "NEXT", "LAST RUN", "JOB", "JOB STATE"):
        table.add_column(column, overflow="fold", no_wrap=column in ("ID", "STATE"))
    for schedule in schedules:
        last = schedule.last_run
        table.add_row(
            schedule.id,
            _schedule_state(schedule),
            escape(schedule.name),
            f"{schedule.spec.get('cron')} {schedule.spec.get('timezone')}",
            str(schedule.runs),
            _local(schedule, schedule.next),
            _local(schedule, last.at if last else None),
            (last.job_id if last else None) or "",
            _coloured(last.job_state if last else None),
        )
    return table


def schedule_table(schedule: ScheduleSchema, ticks: list[TickSchema]) -> Table:
    """One schedule: its next times, and the outcomes of the last ones."""
    title = f"{escape(schedule.name)}: {_schedule_state(schedule)}, {schedule.runs} runs"
    if schedule.problem:
        title += f"; unreadable: {escape(schedule.problem)}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in ("TIME", "OUTCOME", "JOB", "JOB STATE", "REASON"):
        table.add_column(column, overflow="fold")
    for at in reversed(schedule.preview):
        table.add_row(_local(schedule, at), "next", "", "", "")
    for tick in ticks:
        table.add_row(
            _local(schedule, tick.at),
            tick.outcome.value,
            tick.job_id or "",
            _coloured(tick.job_state),
            escape(tick.reason or ""),
        )
    return table


def _schedule_state(schedule: ScheduleSchema) -> str:
    colour = SCHEDULE_COLOURS.get(schedule.state, "white")
    return f"[{colour}]{schedule.state.value}[/]"


def _coloured(state: JobState | None) -> str:
    return "" if state is None else f"[{STATE_COLOURS.get(state, 'white')}]{state.value}[/]"


def _local(schedule: ScheduleSchema, at: datetime | None) -> str:
    if at is None:
        return ""
    zone = UTC if schedule.problem else ZoneInfo(schedule.spec["timezone"])
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M:%S}"


TRIAL_COLOURS = {
    TrialState.RUNNING: "cyan",
    TrialState.SUCCEEDED: "green",
    TrialState.STOPPED: "blue",
    TrialState.FAILED: "red",
    TrialState.CANCELLED: "yellow",
}


def trials_table(sweep: JobSchema, trials: list[TrialSchema]) -> Table:
    """A sweep's trials, one per row."""
    metric = sweep.spec["objective"]["metric"]
    seeds = sweep.spec["search"].get("seeds", 1)
    title = f"{escape(sweep.name)}: {sweep.state.value}, {_trials_finished(sweep)}"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    measured = (metric,) if seeds == 1 else (metric, "SEEDS")
    for column in ("RANK", "TRIAL", "STATE", "EPOCHS", *measured, *sweep.spec["space"], "REASON"):
        table.add_column(column, overflow="fold")
    for trial in trials:
        state = "stopped early" if trial.stopped_early else trial.state.value
        table.add_row(
            "" if trial.rank is None else str(trial.rank),
            str(trial.number),
            f"[{TRIAL_COLOURS[trial.state]}]{state}[/]",
            f"{trial.epoch}/{trial.epochs}",
            _objective(trial),
            *([] if seeds == 1 else [f"{len(trial.values)}/{seeds}"]),
            *(_short(trial.parameters.get(path)) for path in sweep.spec["space"]),
            escape((trial.reason or "")[:80]),
        )
    return table


def _objective(trial: TrialSchema) -> str:
    if trial.objective is None:
        return ""
    spread = "" if trial.std is None else f" ± {trial.std:.2g}"
    return f"{trial.objective:.4g}{spread}"


def _trials_finished(sweep: JobSchema) -> str:
    if sweep.progress is None:
        return "no trials finished yet"
    return f"{sweep.progress.epoch} of {sweep.progress.epochs} trials finished"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def job_table(job: JobSchema) -> Table:
    """One job, one fact per row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    facts: dict[str, Any] = {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "state": job.state.value,
        "reason": job.reason,
        "failure": job.failure,
        "priority": job.priority,
        "workers": job.workers,
        "place": _place_line(job.queue),
        "made room": job.made_room_for and f"for job {job.made_room_for}",
        "extends": job.extends,
        "progress": _detail(job) if job.progress else None,
        **{
            finding.name.replace("_", " "): finding.text
            for finding in (job.progress.findings if job.progress else ())
        },
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "started": job.started_at and f"{job.started_at:%Y-%m-%d %H:%M:%S} UTC",
        "finished": job.finished_at and f"{job.finished_at:%Y-%m-%d %H:%M:%S} UTC",
        "MLflow": job.mlflow and job.mlflow.url,
    }
    for attempt in job.attempts:
        ended = attempt.outcome or "live"
        if attempt.workers is not None:
            ended += f", {_count(attempt.workers, 'worker')}"
        facts[f"attempt {attempt.number}"] = (
            f"{ended}: {attempt.message}" if attempt.message else ended
        )
        moments = _moments(attempt)
        facts |= {f"attempt {attempt.number} {name}": text for name, text in moments}
    facts |= {name: f"{value:.6g}" for name, value in sorted(job.summary.items())}
    for name, fact in facts.items():
        if fact is not None:
            table.add_row(f"[dim]{name}[/]", escape(str(fact)))
    return table


def _place_line(place: QueuePlace | None) -> str | None:
    if place is None or place.position is None:
        return None
    expected = _expected(place)
    return f"number {place.position} in the queue" + (f", starts {expected}" if expected else "")


def _moments(attempt: AttemptSchema) -> Iterator[tuple[str, str]]:
    """What an attempt has reached, and how many seconds after the moment before."""
    before: datetime | None = None
    for name, at in attempt.moments().items():
        after = "" if before is None else f"  +{(at - before).total_seconds():.1f} s"
        yield name.replace("_", " "), f"{at:%H:%M:%S}{after}"
        before = at


def events_table(events: list[EventSchema]) -> Table:
    """The changes of a job's state, one per row."""
    table = Table(box=None, pad_edge=False)
    for column in ("TIME (UTC)", "STATE", "ATTEMPT", "MESSAGE"):
        table.add_column(column, overflow="fold")
    for event in events:
        table.add_row(
            f"{event.at:%Y-%m-%d %H:%M:%S}",
            _coloured(event.after),
            "" if event.attempt is None else str(event.attempt),
            escape(event.message or ""),
        )
    return table


def checkpoints_table(checkpoints: CheckpointsSchema) -> Table:
    """The checkpoints of a job, one per row, and where each is."""
    table = Table(box=None, pad_edge=False)
    for column in ("STEP", "EPOCH", "SAVED (UTC)", "SIZE", "WHERE"):
        table.add_column(column, overflow="fold")
    for each in checkpoints.items:
        table.add_row(
            str(each.step),
            "" if each.epoch is None else f"{each.epoch:.4g}",
            "" if each.saved_at is None else f"{each.saved_at:%Y-%m-%d %H:%M:%S}",
            "" if each.size is None else _megabytes(each.size),
            "\n".join(map(escape, _places(each))),
        )
    return table


def _places(checkpoint: CheckpointSchema) -> Iterator[str]:
    if checkpoint.storage is not None:
        aside = {True: "", False: " (gone)", None: " (as the workers said last)"}
        yield checkpoint.storage + aside[checkpoint.present]
    if checkpoint.artifact is not None:
        yield f"MLflow: {checkpoint.artifact}"


def metrics_table(curves: dict[str, list[dict[str, float]]]) -> Table:
    """Curves, one per row: where each has got to, and its range."""
    table = Table(box=None, pad_edge=False)
    for column in ("METRIC", "POINTS", "STEP", "LAST", "MIN", "MAX"):
        table.add_column(column, overflow="fold")
    for name, points in sorted(curves.items()):
        values = [point["value"] for point in points]
        if values:
            shown = (f"{value:.6g}" for value in (values[-1], min(values), max(values)))
            step = f"{points[-1]['step']:g}"
            table.add_row(escape(name), str(len(points)), step, *shown)
    return table


def data_table(report: DataReport) -> Table:
    """What a set of images is made of, one fact per row."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in _data_facts(report):
        table.add_row(f"[dim]{name}[/]", escape(fact))
    return table


def _data_facts(report: DataReport) -> Iterator[tuple[str, str]]:
    read = "all read" if report.read == report.images else f"{report.read:,} of them read"
    yield "taken for", report.source
    yield "images", f"{report.images:,}, {read}, {_megabytes(report.encoded_bytes)}"
    yield "classes", _classes_line(report)
    for name in report.empty_classes:
        yield "empty class", name
    for names in report.similar_classes:
        yield "differ in case", ", ".join(names)
    if report.smallest and report.median and report.largest:
        shapes = (report.smallest, report.median, report.largest)
        smallest, median, largest = (f"{width}×{height}" for width, height in shapes)
        yield "size", f"median {median}, smallest {smallest}, largest {largest}"
        yield "pixels", f"{report.pixels / 1e6:,.1f} million"
    yield "modes", ", ".join(f"{mode} {n:,}" for mode, n in report.modes.items()) or "unknown"
    yield "not RGB", f"{sum(n for mode, n in report.modes.items() if mode != 'RGB'):,}"
    advice = ": `exif: apply` turns them upright" if report.exif_rotated else ""
    yield "EXIF-rotated", f"{report.exif_rotated:,}{advice}"
    advice = ": they are skipped, and `vicreg data pack` leaves them out" if report.broken else ""
    yield "broken", f"{report.broken:,}{advice}"
    for problem in report.broken_examples:
        yield "", problem
    yield "duplicates", f"{report.duplicates.images:,} in {report.duplicates.groups:,} groups"
    for group in report.duplicates.examples:
        yield "", " = ".join(group)
    if report.images_per_second is not None:
        size = report.image_size
        yield (
            "speed",
            f"{report.images_per_second:,.0f} images/s per core, read from memory and cropped to "
            f"two views of {size}×{size}",
        )
    if report.one_size:
        bytes_held = 3 * report.images * report.pixels / max(1, report.read - report.broken)
        yield (
            "one size",
            f"all are of one size: a GPU with four times {_megabytes(bytes_held)} holds them, and "
            "needs no CPUs to read them",
        )
    if report.cpus_per_worker is not None:
        yield (
            "resources",
            f"cpus_per_worker: {report.cpus_per_worker}, for a GPU that trains on "
            f"{report.gpu_rate:,.0f} images/s: one trains, the others read",
        )


def _classes_line(report: DataReport) -> str:
    smallest, median, largest = report.smallest_class, report.median_class, report.largest_class
    if not (smallest and median and largest):
        return "no labels"
    return (
        f"{report.classes:,}: smallest {smallest.name} ({smallest.images:,}), median {median.name} "
        f"({median.images:,}), largest {largest.name} ({largest.images:,})"
    )


def _megabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def cluster_table(cluster: ClusterSchema) -> Table:
    """The nodes of the cluster, what is in use and what jobs wait for, one per row."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "CPUS", "GPUS"):
        table.add_column(column)
    rows = {f"node {number}": node for number, node in enumerate(cluster.nodes)}
    rows |= {"total": cluster.total, "in use": cluster.used, "waited for": cluster.waited_for}
    for name, amount in rows.items():
        table.add_row(name, f"{amount.cpus:g}", f"{amount.gpus:g}")
    return table
