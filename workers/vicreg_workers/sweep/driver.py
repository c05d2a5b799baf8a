"""A sweep spec as a Ray Tune run.

Everything that must outlast the driver is in the sweep's ledger: a driver that is started anew
makes a new Tune run of the trials that have not ended, tells its scheduler how the others went,
and goes on.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import deque
from typing import Any

# Read by Tune when it is imported or run: what it would write beside its results is not wanted,
# and a trial that fails reports no objective.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)
from ray.tune.search import Searcher

from vicreg_platform.contract.assignment import Assignment, FailureClass
from vicreg_platform.contract.trial import TrialState, job_id_of_trial
from vicreg_platform.specs import Asha, Median, SweepSpec
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.pretrain.driver import MAX_RESTARTS
from vicreg_workers.storage import Folder
from vicreg_workers.sweep.ledger import Entry, Ledger
from vicreg_workers.sweep.reporter import SweepRun
from vicreg_workers.sweep.search import build_search, next_trial
from vicreg_workers.sweep.trial import run_trial

logger = logging.getLogger(__name__)


def sweep(assignment: Assignment) -> None:
    """Run an attempt of a sweep to its end.

    Raises:
        JobFailure: no trial has succeeded, or the search cannot go on.
    """
    spec = assignment.spec
    assert isinstance(spec, SweepSpec)
    ray.init(ignore_reinit_error=True)
    ledger = Ledger(assignment.storage, assignment.job_id, spec.objective)
    with SweepRun(assignment, spec, ledger) as run:
        trials = _Trials(assignment, spec, ledger, run)
        if trials.left():
            _fit(assignment, spec, ledger, trials)
        for _ in range(MAX_RESTARTS):
            if trials.error is not None or not ledger.open():
                break
            # Tune drops a trial whose process cannot be had, and tells nobody.
            logger.warning("%d trials were dropped: going on with them", len(ledger.open()))
            trials = _Trials(assignment, spec, ledger, run)
            _fit(assignment, spec, ledger, trials)
        if trials.error is not None:
            raise trials.error
    if ledger.open():
        raise InfrastructureFailure(f"{len(ledger.open())} trials could not be run")
    if not any(entry.objective is not None for entry in ledger):
        failed = [entry for entry in ledger if entry.reason]
        reason = f"; the first: {failed[0].reason}" if failed else ""
        raise UserFailure(f"none of {len(ledger)} trials has given {spec.objective.metric}{reason}")


def _fit(assignment: Assignment, spec: SweepSpec, ledger: Ledger, trials: _Trials) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, assignment=assignment.model_dump_json()),
                lambda config: _resources(spec, config["parameters"]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=trials,
                scheduler=_scheduler(spec, ledger, trials),
                num_samples=trials.left(),
                max_concurrent_trials=assignment.concurrency,
                # A process that waits for a group of workers can only be ended, and they with it.
                reuse_actors=spec.trial_resources().workers == 1,
            ),
            run_config=tune.RunConfig(
                name=assignment.job_id,
                storage_path=folder,
                verbose=0,
                callbacks=[_Failures(trials)],
                failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
            ),
        ).fit()


def _resources(spec: SweepSpec, parameters: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial's own process is given; several workers reserve theirs by themselves."""
    resources = spec.trial_spec(parameters).resources
    if resources.workers > 1:
        # Ray takes no empty request; a CPU of its own would be missing from the workers.
        return tune.PlacementGroupFactory([{"memory": 2**20}])
    return tune.PlacementGroupFactory(
        [{"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}]
    )


class _Trials(Searcher):  # type: ignore[misc]
    """Tune's search algorithm: the trials that have not ended, then new ones."""

    def __init__(
        self, assignment: Assignment, spec: SweepSpec, ledger: Ledger, run: SweepRun
    ) -> None:
        super().__init__(metric="objective", mode=spec.objective.mode)
        self._assignment = assignment
        self._spec = spec
        self._ledger = ledger
        self._run = run
        self._search = build_search(spec, ledger)
        self._again: deque[Entry] = deque(ledger.open())
        self._numbers: dict[str, int] = {}
        self.error: UserFailure | None = None

    def left(self) -> int:
        """Trials to run."""
        return len(self._again) + max(0, self._spec.search.trials - len(self._ledger))

    def suggest(self, trial_id: str) -> Any:
        """See ``Searcher``."""
        entry = self._again.popleft() if self._again else self._new()
        if entry is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = entry.number
        self._ledger.started(entry.number)
        self._run.changed(entry)
        logger.info("trial %d: %s", entry.number, entry.parameters)
        return {"number": entry.number, "parameters": entry.parameters}

    def _new(self) -> Entry | None:
        try:
            entry = next_trial(self._search, self._spec, len(self._ledger))
        except UserFailure as error:
            self.error = error
            return None
        if entry is not None:
            self._ledger.add(entry)
        return entry

    def report(self, number: int, result: dict[str, Any]) -> bool:
        """A trial's word at an epoch's end; whether it goes on, for all that it says itself."""
        if "failure" in result:
            self._ledger.end(
                number,
                TrialState.FAILED,
                failure=result["failure"],
                reason=result["reason"],
                run_id=result["run_id"],
            )
            return False
        result["objective"] = self._ledger.report(
            number, result["epoch"], result["objective"], result["run_id"]
        )
        self._run.changed(self._ledger[number])
        return True

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See ``Searcher``."""
        entry = self._ledger[self._numbers[trial_id]]
        if error:
            self._ledger.end(
                entry.number, TrialState.FAILED, failure=FailureClass.INFRASTRUCTURE.value
            )
        elif entry.state is TrialState.RUNNING:
            whole = entry.epoch >= entry.epochs
            self._ledger.end(entry.number, TrialState.SUCCEEDED if whole else TrialState.STOPPED)
        self._search.tell(entry)
        trial = job_id_of_trial(self._assignment.job_id, entry.number)
        Folder.of_job(self._assignment.storage, trial).remove()
        self._run.changed(entry)
        logger.info(
            "trial %d %s after epoch %d of %d: %s",
            entry.number,
            entry.state.value,
            entry.epoch,
            entry.epochs,
            entry.objective,
        )

    def failed(self, trial_id: str, reason: str) -> None:
        """Why Tune has given a trial up."""
        entry = self._ledger[self._numbers[trial_id]]
        self._ledger.end(
            entry.number,
            TrialState.FAILED,
            failure=FailureClass.INFRASTRUCTURE.value,
            reason=reason,
        )
        self._run.changed(entry)

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles it for a restore of its own kind, which is never made.
        return Searcher, ()

    def save(self, checkpoint_path: str) -> None:
        """The ledger is kept already."""

    def restore(self, checkpoint_path: str) -> None:
        """The ledger is kept already."""


class _Failures(tune.Callback):  # type: ignore[misc]
    """Hands on why Tune gave a trial up."""

    def __init__(self, trials: _Trials) -> None:
        self._trials = trials

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ``tune.Callback``."""
        error = trial.get_error()
        lines = str(error).strip().splitlines() or ["lost"]
        self._trials.failed(trial.trial_id, f"{type(error).__name__}: {lines[-1][:300]}")


class _Judged:
    """Lets the ledger judge a trial by its whole curve before the scheduler does.

    Mixed into a scheduler of Tune's.
    """

    trials: _Trials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See ``TrialScheduler``."""
        if not self.trials.report(trial.config["number"], result):
            return str(TrialScheduler.STOP)
        decision: str = super().on_trial_result(  # type: ignore[misc]
            tune_controller, trial, result
        )
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See ``TrialScheduler``; a trial that failed is no measure for others."""
        if "failure" not in result and "objective" in result:
            super().on_trial_complete(tune_controller, trial, result)  # type: ignore[misc]


class _Fifo(_Judged, FIFOScheduler):  # type: ignore[misc]
    pass


class _Asha(_Judged, AsyncHyperBandScheduler):  # type: ignore[misc]
    pass


class _Median(_Judged, MedianStoppingRule):  # type: ignore[misc]
    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        # Tune would pause the trial, and pausing ends its process.
        return str(TrialScheduler.CONTINUE)


class _Past:
    """A trial that ended under an earlier driver, as a scheduler sees one."""

    def __init__(self, entry: Entry) -> None:
        self.trial_id = f"past-{entry.number}"


def _scheduler(spec: SweepSpec, ledger: Ledger, trials: _Trials) -> TrialScheduler:
    """The scheduler, told of the trials that have ended."""
    chosen = spec.scheduler
    # "training_iteration" would count anew in a trial that goes on from a checkpoint.
    known = {"time_attr": "epoch", "metric": "objective", "mode": spec.objective.mode}
    scheduler: Any
    if isinstance(chosen, Asha):
        longest = max([entry.epochs for entry in ledger], default=1)
        longest = max(longest, _longest(spec))
        scheduler = _Asha(
            **known,
            # One more than there are: at its last epoch a trial ends by itself.
            max_t=longest + 1,
            grace_period=min(chosen.grace_epochs, longest),
            reduction_factor=chosen.reduction_factor,
        )
    elif isinstance(chosen, Median):
        scheduler = _Median(
            **known, grace_period=chosen.grace_epochs, min_samples_required=chosen.min_trials
        )
    else:
        scheduler = _Fifo()
    scheduler.trials = trials
    for entry in ledger:
        if entry.state is not TrialState.RUNNING and entry.curve:
            _replay(scheduler, entry, spec)
    return scheduler


def _longest(spec: SweepSpec) -> int:
    """The most epochs that a trial can have."""
    epochs = spec.base.get("training", {}).get("epochs", 100)
    if "training.epochs" in spec.space:
        return int(max(spec.space["training.epochs"].samples()))
    return int(epochs)


def _replay(scheduler: Any, entry: Entry, spec: SweepSpec) -> None:
    if isinstance(scheduler, _Fifo):
        return
    past = _Past(entry)
    base: Any = type(scheduler).__mro__[2]  # the ledger has judged it already
    base.on_trial_add(scheduler, None, past)
    score: float | None = None
    best = max if spec.objective.mode == "max" else min
    for epoch in sorted(entry.curve):
        value = entry.curve[epoch]
        score = value if spec.objective.value == "last" or score is None else best(score, value)
        base.on_trial_result(scheduler, None, past, {"epoch": epoch, "objective": score})
