"""One worker of a pretraining run."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import ray.train.torch
import torch

from vicreg_platform.assignment import Assignment
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.encoder import FOLDER, encoder_files
from vicreg_workers.environment import environment_tags
from vicreg_workers.failures import OutOfMemory
from vicreg_workers.logs import configure_logging
from vicreg_workers.run_context import RunContext
from vicreg_workers.run_log import RunLog
from vicreg_workers.selfsup.distributed import gather_objects, rank
from vicreg_workers.selfsup.images import open_images
from vicreg_workers.selfsup.train import Pretraining

logger = logging.getLogger(__name__)


def train(assignment: Assignment) -> None:
    """Train this worker's part, from the last checkpoint to the end.

    Raises:
        JobFailure: with its class.
    """
    spec = assignment.spec
    assert isinstance(spec, PretrainSpec)
    configure_logging()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(spec.resources.cpus_per_worker)
    device = ray.train.torch.get_device()
    checkpoints = Checkpoints(assignment.storage, assignment.job_id, spec.checkpoint.keep)
    tags = _tags(assignment, device)
    run_log = None
    if rank() == 0:
        run_log = RunLog(assignment.tracking_uri, assignment.run_id, resumed=True)
        run_log.tags(tags)
    # With one CPU the training thread reads the images itself.
    loaders = spec.resources.cpus_per_worker - 1
    context = RunContext(assignment, checkpoints, run_log, device, loaders)
    try:
        images = open_images(spec.data, Path(assignment.data_root))
        backbone = Pretraining(spec, images, context).run()
        if run_log is not None:
            _publish(run_log, encoder_files(backbone, spec), checkpoints)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemory(
            "a GPU ran out of memory: lower training.batch_size or the expander's widths "
            f"({str(error).splitlines()[0]})"
        ) from None
    finally:
        if run_log is not None:
            run_log.close()


def _tags(assignment: Assignment, device: torch.device) -> dict[str, str]:
    """What the run remembers of all workers' machines."""
    everywhere: list[dict[str, str]] = gather_objects(environment_tags(device))
    tags = everywhere[0] | {"vicreg.attempt": str(assignment.attempt)}
    for name in ("vicreg.host", "vicreg.gpu"):
        values = sorted({worker[name] for worker in everywhere if name in worker})
        if values:
            tags[name] = ", ".join(values)
    return tags


def _publish(run_log: RunLog, encoder: dict[str, bytes], checkpoints: Checkpoints) -> None:
    """The finished encoder and the last checkpoint, as artifacts of the run."""
    for name, content in encoder.items():
        run_log.file(f"{FOLDER}/{name}", content)
    last = checkpoints.last_files()
    assert last is not None, "a finished run has a checkpoint"
    folder, files = last
    for name, content in files.items():
        run_log.file(f"checkpoints/{folder}/{name}", content)
