"""One training of a sweep: the function that Ray Tune calls."""

from __future__ import annotations

import gc
import logging
import os
import time
from typing import Any

# Tune reads this in the trial's process before it reuses it for the next trial: how many seconds a
# stopped trial may take to send what it has logged. Tune's own 2 fail trials on a busy machine.
os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "600")

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.contract.trial import Trial, job_id_of_trial, name_of_training
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.specs import PretrainSpec, SweepSpec
from vicreg_platform.tracking import Tracking
from vicreg_workers.device import reserved_device
from vicreg_workers.failures import InfrastructureFailure, JobFailure, UserFailure
from vicreg_workers.log_format import configure_logging
from vicreg_workers.stop_signal import StopSignal

logger = logging.getLogger(__name__)

MLFLOW_SECONDS = 600.0
"""How long a trial waits for MLflow before it starts."""
RETRY_SECONDS = 2.0


def run_trial(config: dict[str, Any], assignment: str) -> None:
    """Train one configuration with one seed, from its last checkpoint if it has one.

    A failure that would only repeat is reported, and the sweep continues. Any other failure is
    raised, and Ray Tune retries the trial.

    Args:
        config: ``number``, ``seed`` and ``parameters``.
        assignment: the sweep's, as JSON.
    """
    configure_logging()
    sweep = Assignment.model_validate_json(assignment)
    trial: Assignment | None = None
    try:
        trial = _assignment_of_trial(sweep, **config)
        if trial.worker_count == 1:
            _train_here(trial)
        else:
            from vicreg_workers.pretrain.driver import fit
            from vicreg_workers.worker_group import group_of

            fit(trial, group_of(trial), Timeline(), [TuneReportCallback()])
    except JobFailure as failure:
        if failure.failure_class is FailureClass.INFRASTRUCTURE:
            raise
        tune.report(
            {
                "epoch": 0,
                "failure": failure.failure_class.value,
                "reason": " ".join(str(failure).split()),
                "run_id": trial and trial.run_id,
            }
        )
    finally:
        if trial is not None:
            StopSignal(trial.storage, trial.job_id, trial.attempt).clear()
        # The process trains the next trial too, and networks hold reference cycles.
        gc.collect()


def _train_here(trial: Assignment) -> None:
    """Train in this process, which Ray Tune gave the resources of the one worker."""
    from vicreg_workers.pretrain.worker import train

    spec = trial.spec
    assert isinstance(spec, PretrainSpec)
    train(trial, reserved_device(spec.resources.gpus_per_worker), Timeline(), tune.report)


def _assignment_of_trial(
    sweep: Assignment, number: int, seed: int, parameters: dict[str, Any]
) -> Assignment:
    assert isinstance(sweep.spec, SweepSpec)
    spec = sweep.spec.trial_spec(parameters, seed)
    begun = Trial(number=number, parameters=parameters, epochs=spec.training.epochs)
    return sweep.model_copy(
        update={
            "job_id": job_id_of_trial(sweep.job_id, number, seed),
            "spec": spec,
            "run_id": _run_of_training(sweep, begun, seed, spec),
            "objective": sweep.spec.objective.metric,
        }
    )


def _run_of_training(sweep: Assignment, trial: Trial, seed: int, spec: PretrainSpec) -> str:
    """The MLflow run of a training, under the sweep's. Waits while MLflow is unreachable.

    Raises:
        InfrastructureFailure: MLflow is unreachable for 10 minutes.
        UserFailure: MLflow refuses the run.
    """
    assert isinstance(sweep.spec, SweepSpec)
    tracking = Tracking(sweep.tracking_uri)
    deadline = time.monotonic() + MLFLOW_SECONDS
    while True:
        try:
            parent = sweep.run_id or _run_of_sweep(tracking, sweep)
            run_id, _ = tracking.ensure_run(
                job_id_of_trial(sweep.job_id, trial.number, seed),
                f"{sweep.spec.name}-{name_of_training(trial.number, seed)}",
                sweep.spec.experiment,
                spec.model_dump(mode="json") | {"labels": sweep.spec.labels},
                parent,
            )
            tracking.begin_training(run_id, trial, seed)
            return run_id
        except (TrackingRefused, NotFound) as error:
            raise UserFailure(str(error)) from None
        except TrackingUnavailable as error:
            if time.monotonic() > deadline:
                raise InfrastructureFailure(str(error)) from None
            logger.warning("the trial waits for MLflow: %s", error)
            time.sleep(RETRY_SECONDS)


def _run_of_sweep(tracking: Tracking, sweep: Assignment) -> str:
    """The sweep's run, which its driver creates.

    Raises:
        TrackingUnavailable: it is not there yet.
    """
    run = tracking.run_of_job(sweep.job_id, sweep.spec.experiment)
    if run is None:
        raise TrackingUnavailable("the run of the sweep is not there yet")
    return run[0]
