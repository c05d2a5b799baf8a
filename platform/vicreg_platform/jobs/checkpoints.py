"""The checkpoints of a job: what its workers say of the storage, and what MLflow has."""

from __future__ import annotations

from pathlib import Path

from vicreg_platform.contract.checkpoint import (
    CHECKPOINTS,
    MANIFEST,
    MOST_TOLD,
    CheckpointReport,
    name_of_checkpoint,
)
from vicreg_platform.jobs.schemas import CheckpointSchema, CheckpointsSchema, JobSchema
from vicreg_platform.tracking import Tracking


def checkpoints_of(tracking: Tracking, storage: str, job: JobSchema) -> CheckpointsSchema:
    """The checkpoints of a job.

    Args:
        tracking: where the workers have told of them, and where the last one is uploaded to.
        storage: the workers'. If this process sees it as a folder, it is looked into.
        job: the job.

    Raises:
        TrackingUnavailable: MLflow is unreachable.
    """
    if job.mlflow is None:
        return CheckpointsSchema(items=[], total=0)
    told, uploaded = tracking.checkpoints(job.mlflow.run_id)
    report = told or CheckpointReport(folder="")
    root = Path(storage)
    # Not if it is an address of an object store, or of a disk that only the workers have.
    folder = root / job.id / CHECKPOINTS if root.is_absolute() and root.is_dir() else None
    items: dict[str, CheckpointSchema] = {}
    for each in report.checkpoints:
        name = name_of_checkpoint(each.step)
        items[name] = CheckpointSchema(
            step=each.step,
            saved_at=each.saved_at,
            size=each.size,
            workers=each.workers,
            storage=f"{report.folder}/{name}",
            present=None if folder is None else _is_there(folder / name),
        )
    for name, size in uploaded.items():
        known = items.get(name) or CheckpointSchema(step=int(name.rpartition("-")[2]), size=size)
        items[name] = known.model_copy(update={"artifact": f"{CHECKPOINTS}/{name}"})
    newest_first = sorted(items.values(), key=lambda each: -each.step)
    return CheckpointsSchema(
        items=[
            each.model_copy(update={"epoch": _epoch(job, each.step)})
            for each in newest_first[:MOST_TOLD]
        ],
        total=max(len(items), report.total),
    )


def _is_there(folder: Path) -> bool | None:
    """Whether a folder holds a checkpoint; None if this process may not look into it."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return None


def _epoch(job: JobSchema, step: int) -> float | None:
    progress = job.progress
    if progress is None or not 0 < progress.epochs <= progress.steps:
        return None
    return step * progress.epochs / progress.steps
