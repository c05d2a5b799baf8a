"""Runs an evaluate spec, in one process."""

from __future__ import annotations

import logging

import torch

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.tags import ATTEMPT_TAG
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.specs import EvaluateSpec, ExportProtocol, FinetuneProtocol, KnnProtocol
from vicreg_workers.device import reserved_device
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.evaluate.features import export_features
from vicreg_workers.evaluate.finetune import evaluate_finetune
from vicreg_workers.evaluate.knn import evaluate_knn
from vicreg_workers.evaluate.linear import evaluate_linear
from vicreg_workers.failures import as_job_failures
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.tracking.machine import environment_tags
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.tracking.run import run_of

logger = logging.getLogger(__name__)


def evaluate(assignment: Assignment, timeline: Timeline) -> None:
    """Run an attempt of an evaluation job.

    Args:
        assignment: the attempt.
        timeline: what it has reached so far.

    Raises:
        JobFailure: the evaluation failed.
    """
    spec = assignment.spec
    assert isinstance(spec, EvaluateSpec)
    device = reserved_device(spec.resources.gpus)
    torch.set_num_threads(spec.resources.cpus)
    if device.type == "cuda":
        set_gpu_arithmetic()
    with Outbox(
        assignment.tracking_uri,
        run_of(assignment),
        resumed=assignment.attempt > 1,
        timeline=AttemptTimeline(attempt=assignment.attempt, timeline=timeline),
    ) as outbox:
        outbox.tags(environment_tags(device) | {ATTEMPT_TAG: str(assignment.attempt)})
        with as_job_failures("free the GPU, or evaluate on CPUs with resources.gpus 0"):
            metrics = measure(assignment, spec, outbox, device)
        # Before the outbox is closed, which may fail: the log then has the numbers.
        logger.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        outbox.reached("last_step")
        outbox.metrics(metrics, step=0)


def measure(
    assignment: Assignment, spec: EvaluateSpec, outbox: Outbox, device: torch.device
) -> dict[str, float]:
    """The protocol's metrics, by name.

    Raises:
        UserFailure: the encoder, the images or their labels do not fit the protocol.
        InvalidInput: the images are missing or malformed.
    """
    evaluation = Evaluation(assignment, spec, outbox, device)
    protocol = spec.protocol
    if isinstance(protocol, FinetuneProtocol):
        metrics = evaluate_finetune(evaluation, protocol)
    elif isinstance(protocol, KnnProtocol):
        metrics = evaluate_knn(evaluation, protocol)
    elif isinstance(protocol, ExportProtocol):
        metrics = export_features(evaluation)
    else:
        metrics = evaluate_linear(evaluation, protocol)
    return metrics | {"data/corrupt_images": float(evaluation.corrupt)}
