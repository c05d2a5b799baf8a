"""One worker of an evaluation."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable
from typing import Any

import torch

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.tags import ATTEMPT_TAG
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.specs import (
    DetectionProtocol,
    EvaluateSpec,
    FeaturesProtocol,
    FewShotProtocol,
    FinetuneProtocol,
    KnnProtocol,
    LinearProtocol,
    Protocol,
    RetrievalProtocol,
    SegmentationProtocol,
    SvmProtocol,
)
from vicreg_platform.specs.protocol import repeated
from vicreg_platform.tracking import Tracking
from vicreg_workers.evaluate.detection import evaluate_detection
from vicreg_workers.evaluate.evaluation import Evaluation
from vicreg_workers.evaluate.features import store_features
from vicreg_workers.evaluate.few_shot import evaluate_few_shot
from vicreg_workers.evaluate.finetune import evaluate_finetune
from vicreg_workers.evaluate.knn import evaluate_knn
from vicreg_workers.evaluate.linear import evaluate_linear
from vicreg_workers.evaluate.retrieval import evaluate_retrieval
from vicreg_workers.evaluate.segmentation import evaluate_segmentation
from vicreg_workers.evaluate.svm import evaluate_svm
from vicreg_workers.failures import JobFailure, as_job_failures
from vicreg_workers.log_format import configure_logging
from vicreg_workers.selfsup.distributed import rank
from vicreg_workers.selfsup.model.precision import set_gpu_arithmetic
from vicreg_workers.tracking.machine import environment_tags_of_all
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.tracking.run import run_of

logger = logging.getLogger(__name__)

MEASURES: dict[type[Protocol], Callable[[Evaluation, Any], dict[str, float]]] = {
    KnnProtocol: evaluate_knn,
    LinearProtocol: evaluate_linear,
    FinetuneProtocol: evaluate_finetune,
    SvmProtocol: evaluate_svm,
    FewShotProtocol: evaluate_few_shot,
    RetrievalProtocol: evaluate_retrieval,
    SegmentationProtocol: evaluate_segmentation,
    DetectionProtocol: evaluate_detection,
    FeaturesProtocol: store_features,
}
"""What measures each protocol."""


def evaluate(assignment: Assignment, device: torch.device, timeline: Timeline) -> None:
    """Do this worker's part of an evaluation.

    Each one computes its part of the representations. The first one gets those of all, measures
    them, and sends what it finds to the run.

    Args:
        assignment: the attempt.
        device: where the encoder runs.
        timeline: what the attempt has reached so far.

    Raises:
        JobFailure: the evaluation failed.
    """
    spec = assignment.spec
    assert isinstance(spec, EvaluateSpec)
    configure_logging()
    torch.set_num_threads(spec.resources.cpus)
    if device.type == "cuda":
        set_gpu_arithmetic()
        torch.cuda.set_device(device)  # NCCL's object collectives use the current device
    tags = environment_tags_of_all(device) | {ATTEMPT_TAG: str(assignment.attempt)}
    with as_job_failures("free the GPU, or evaluate on CPUs with resources.gpus 0"):
        if rank() == 0:
            _measure(assignment, spec, device, timeline, tags)
        else:
            Evaluation(assignment, spec, None, device).extract()


def _measure(
    assignment: Assignment,
    spec: EvaluateSpec,
    device: torch.device,
    timeline: Timeline,
    tags: dict[str, str],
) -> None:
    with Outbox(
        assignment.tracking_uri,
        run_of(assignment),
        resumed=assignment.attempt > 1,
        timeline=AttemptTimeline(attempt=assignment.attempt, timeline=timeline),
    ) as outbox:
        outbox.tags(tags)
        evaluation = Evaluation(assignment, spec, outbox, device)
        metrics = measure(evaluation, spec)
        # Before the outbox is closed, which may fail: the log then has the numbers.
        logger.info("%s", ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        outbox.reached("last_step")
        outbox.metrics(metrics, step=0)
    if spec.curve is not None and evaluation.encoder_step is not None:
        _extend_curves(assignment, spec.curve, metrics, evaluation.encoder_step)


def measure(evaluation: Evaluation, spec: EvaluateSpec) -> dict[str, float]:
    """The protocol's metrics, by name; of several seeds, their means and standard deviations.

    Raises:
        UserFailure: the encoder, the images or their labels do not fit the protocol.
        InvalidInput: the images are missing or malformed.
    """
    start = {name: value.clone() for name, value in evaluation.encoder.state_dict().items()}
    runs: list[dict[str, float]] = []
    for protocol in repeated(spec.protocol, spec.seeds):
        # The run before may have trained the encoder, and has counted the same images.
        evaluation.encoder.load_state_dict(start)
        evaluation.corrupt = 0
        runs.append(MEASURES[type(protocol)](evaluation, protocol))
    metrics = {"data/corrupt_images": float(evaluation.corrupt)}
    for name in runs[0]:
        values = [run[name] for run in runs]
        metrics[name] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"{name}_std"] = statistics.stdev(values)
    return metrics


def _extend_curves(
    assignment: Assignment, curve: str, metrics: dict[str, float], step: int
) -> None:
    """Add the metrics to the curves of the encoder's job, unless they are there.

    They are in the evaluation's own run already, so nothing that goes wrong here fails it.
    """
    run_id = assignment.encoder_run_id
    assert run_id is not None
    points = {
        f"evaluations/{curve}/{name.partition('/')[2]}": value
        for name, value in metrics.items()
        if not name.startswith("data/")
    }
    try:
        tracking = Tracking(assignment.tracking_uri)
        if assignment.attempt > 1 and points:
            known = tracking.history(run_id, next(iter(points)))
            if any(point.step == step for point in known):
                return
        with Outbox(assignment.tracking_uri, run_id) as outbox:
            outbox.metrics(points, step)
    except (JobFailure, NotFound, TrackingRefused, TrackingUnavailable) as error:
        logger.warning("the curves of the encoder's job have not got the metrics: %s", error)
