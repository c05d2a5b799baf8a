"""One worker of a pretraining run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from torch import nn

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.checkpoint import CheckpointReport
from vicreg_platform.contract.tags import ATTEMPT_TAG, CHECKPOINTS_TAG, ENCODER_TAG
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import PretrainSpec
from vicreg_platform.specs.init import ModelWeights
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.encoder import encoder_files
from vicreg_workers.failures import as_job_failures, naming_held_images
from vicreg_workers.log_format import configure_logging
from vicreg_workers.pretrain.context import Report, RunContext
from vicreg_workers.selfsup.data.images import Images
from vicreg_workers.selfsup.data.sources import open_images
from vicreg_workers.selfsup.distributed import first_before_others, rank
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.selfsup.monitor.probe import Labelled
from vicreg_workers.selfsup.train import Pretraining
from vicreg_workers.stop_signal import StopSignal
from vicreg_workers.storage import INDEXES, Folder
from vicreg_workers.tracking.machine import environment_tags_of_all
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.tracking.run import run_of
from vicreg_workers.weights import FOLDER, load_initial_weights, version_of

logger = logging.getLogger(__name__)


def train(
    assignment: Assignment,
    device: torch.device,
    timeline: Timeline,
    report: Report | None = None,
) -> None:
    """Train this worker's part, from the last checkpoint to the last step.

    Args:
        assignment: the attempt.
        device: what to train on.
        timeline: what the attempt has reached so far.
        report: for a sweep's trial, see ``RunContext``.

    Raises:
        JobFailure: the training failed.
    """
    spec = assignment.spec
    assert isinstance(spec, PretrainSpec)
    configure_logging()
    warnings.filterwarnings("ignore", category=FutureWarning)
    # The strides of a 1×1 kernel's gradient differ in name only: copying it is as fast.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    torch.set_num_threads(spec.resources.cpus_per_worker)
    if device.type == "cuda":
        set_gpu_arithmetic()
        torch.cuda.set_device(device)  # NCCL's object collectives use the current device
    with as_job_failures("lower training.batch_size or the expander's widths"):
        _train(assignment, spec, device, timeline, report)


def _train(
    assignment: Assignment,
    spec: PretrainSpec,
    device: torch.device,
    timeline: Timeline,
    report: Report | None,
) -> None:
    tags = environment_tags_of_all(device) | {ATTEMPT_TAG: str(assignment.attempt)}
    # With one CPU, the training thread reads the images itself.
    loaders = spec.resources.cpus_per_worker - 1
    with ExitStack() as stack:
        outbox = None
        if rank() == 0:
            outbox = stack.enter_context(
                Outbox(
                    assignment.tracking_uri,
                    run_of(assignment),
                    resumed=True,
                    timeline=AttemptTimeline(attempt=assignment.attempt, timeline=timeline),
                )
            )
            outbox.tags(tags)
        # Even if the training fails: what it has saved by then is what a retry resumes from.
        checkpoints = stack.enter_context(
            Checkpoints(
                assignment.storage,
                assignment.job_id,
                spec.checkpoint.keep,
                # A trial's are deleted with it.
                None if outbox is None or report is not None else partial(_tell, outbox),
            )
        )
        stop = StopSignal(assignment.storage, assignment.job_id, assignment.attempt)
        if rank() == 0:
            stack.enter_context(stop.watched())
        context = RunContext(
            assignment, checkpoints, outbox, device, loaders, stop.requested, report
        )
        images, labelled = _opened(assignment, spec, loaders)
        if outbox is not None:
            outbox.reached("data_open")
        initialise = _starting_from(assignment, spec, outbox)
        pretraining = Pretraining(spec, images, context, labelled, initialise)
        stop.training()
        with naming_held_images(pretraining.batches.held_bytes):
            backbone = pretraining.run()
        if outbox is not None:
            # A trial's checkpoints are deleted with it: its configuration can be trained again.
            published = checkpoints if report is None else None
            _publish(outbox, encoder_files(backbone, spec, pretraining.progress.step), published)


def _opened(
    assignment: Assignment, spec: PretrainSpec, loaders: int
) -> tuple[Images, Labelled | None]:
    """The training images, and those of ``watch.probe``.

    The first worker lists them, and the others find its index.

    Raises:
        SelfsupError: on every worker, if the first one cannot open them.
    """
    locate = partial(resolve_inside, Path(assignment.data_root))
    keep = Folder.of_job(assignment.storage, INDEXES)
    own = Folder.of_job(assignment.storage, assignment.job_id)

    def opened() -> tuple[Images, Labelled | None]:
        images = open_images(spec.data, locate, keep, loaders, own)
        probe = spec.watch.probe
        if probe is None:
            return images, None
        train, test = (
            open_images(each, locate, keep, loaders, own) for each in (probe.train, probe.test)
        )
        return images, Labelled(train, probe.train.image_size, test, probe.test.image_size)

    return first_before_others(opened)


def _starting_from(
    assignment: Assignment, spec: PretrainSpec, outbox: Outbox | None
) -> Callable[[nn.Module], None] | None:
    """What loads the weights of ``init`` into a backbone, if there is one."""
    init = spec.init
    if init is None:
        return None

    def initialise(backbone: nn.Module) -> None:
        named = init
        if isinstance(named, ModelWeights):
            version = version_of(named.model, assignment.tracking_uri)
            named = named.model_copy(update={"model": version})
            if outbox is not None:
                outbox.tags({ENCODER_TAG: version})
        load_initial_weights(
            backbone,
            init=named,
            spec=spec.backbone,
            job_run_id=assignment.encoder_run_id,
            tracking_uri=assignment.tracking_uri,
            data_root=Path(assignment.data_root),
        )

    return initialise


def _tell(outbox: Outbox, report: CheckpointReport) -> None:
    """Have the run say which checkpoints there are."""
    outbox.tags({CHECKPOINTS_TAG: report.model_dump_json()})


def _publish(outbox: Outbox, encoder: dict[str, bytes], checkpoints: Checkpoints | None) -> None:
    """Upload the encoder and the last checkpoint as artifacts of the run."""
    for name, content in encoder.items():
        outbox.file(f"{FOLDER}/{name}", content)
    if checkpoints is None:
        return
    last = checkpoints.last_files()
    assert last is not None, "a finished run has a checkpoint"
    folder, files = last
    for name, content in files.items():
        outbox.file(f"checkpoints/{folder}/{name}", content)
