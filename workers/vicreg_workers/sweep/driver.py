"""Runs a sweep spec with Ray Tune.

All that must outlast the driver is in the sweep's ledger. A driver that is restarted makes a new
Tune run of the trials that have not ended and of those still to be drawn.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections import deque
from typing import Any

# Tune reads these when it is imported or run. What it would log beside its results is not wanted,
# and a trial that fails reports no objective.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.failure_class import FailureClass
from vicreg_platform.contract.timeline import Timeline
from vicreg_platform.contract.trial import TrialState, job_id_of_trial
from vicreg_platform.specs import SweepSpec
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.pretrain.driver import MAX_RESTARTS
from vicreg_workers.ray_connection import connect
from vicreg_workers.stop_signal import StopSignal, on_sigterm
from vicreg_workers.storage import Folder
from vicreg_workers.sweep.early_stopping import build_early_stopping
from vicreg_workers.sweep.ledger import Entry, Ledger
from vicreg_workers.sweep.reporter import Reporter
from vicreg_workers.sweep.search import build_search, next_trial
from vicreg_workers.sweep.trial import run_trial

logger = logging.getLogger(__name__)

SAVING_SECONDS = 15.0
"""How long trials may take to save their state: Ray kills the driver after 20."""


def sweep(assignment: Assignment, timeline: Timeline) -> None:
    """Run an attempt of a sweep.

    Args:
        assignment: the attempt.
        timeline: what it has reached so far.

    Raises:
        JobFailure: no trial has reported the objective, trials could not be run, or no
            configuration can be drawn.
    """
    spec = assignment.spec
    assert isinstance(spec, SweepSpec)
    connect(assignment.warm_start)
    ledger = Ledger(assignment.storage, assignment.job_id, spec.objective)
    on_sigterm(lambda: _stop(assignment, ledger))
    with Reporter(assignment, spec, ledger, timeline) as reporter:
        trials = Trials(assignment, spec, ledger, reporter)
        if trials.left():
            _fit(assignment, spec, trials)
        for _ in range(MAX_RESTARTS):
            if trials.error is not None or not ledger.open():
                break
            # Tune drops a trial if it cannot get a process for it, and does not say so.
            logger.warning("Ray Tune dropped %d trials: resuming them", len(ledger.open()))
            trials = Trials(assignment, spec, ledger, reporter)
            _fit(assignment, spec, trials)
        if trials.error is not None:
            raise trials.error
    if ledger.open():
        raise InfrastructureFailure(f"{len(ledger.open())} trials could not be run")
    if not any(entry.objective is not None for entry in ledger):
        failed = [entry for entry in ledger if entry.reason]
        reason = f"; the first: {failed[0].reason}" if failed else ""
        raise UserFailure(f"none of {len(ledger)} trials reported {spec.objective.metric}{reason}")


def _stop(assignment: Assignment, ledger: Ledger) -> None:
    """Let all trials save the step that they are at, and end this process."""
    signals = [
        StopSignal(
            assignment.storage,
            job_id_of_trial(assignment.job_id, entry.number),
            assignment.attempt,
        )
        for entry in ledger.open()
    ]
    training = [signal for signal in signals if signal.is_training()]
    logger.warning("told to stop: %d trials save their state", len(training))
    for signal in training:
        signal.request()
    deadline = time.monotonic() + SAVING_SECONDS
    # A trial removes its marks when it has ended. Tune may start it again: that is ended with
    # this process, and loses what it has done since.
    while any(signal.is_training() for signal in training) and time.monotonic() < deadline:
        time.sleep(0.2)
    os._exit(FailureClass.INFRASTRUCTURE.exit_code)


def _fit(assignment: Assignment, spec: SweepSpec, trials: Trials) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, assignment=assignment.model_dump_json()),
                lambda config: _resources(spec, config["parameters"]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=Proposals(trials),
                scheduler=Reports(trials),
                num_samples=trials.left(),
                max_concurrent_trials=assignment.concurrency,
                # A process that waits for a group of workers can only be killed, and they with it.
                reuse_actors=spec.trial_resources().workers == 1,
            ),
            run_config=tune.RunConfig(
                name=assignment.job_id,
                storage_path=folder,
                verbose=0,
                callbacks=[Errors(trials)],
                failure_config=tune.FailureConfig(max_failures=MAX_RESTARTS),
            ),
        ).fit()


def _resources(spec: SweepSpec, parameters: dict[str, Any]) -> tune.PlacementGroupFactory:
    """The resources of a trial's own process. Several workers reserve theirs by themselves."""
    trial = spec.trial_spec(parameters)
    if trial.needs().count > 1:
        # Ray refuses an empty request, and a CPU given here would be missing from the workers.
        return tune.PlacementGroupFactory([{"memory": 2**20}])
    return tune.PlacementGroupFactory(
        [{"CPU": trial.resources.cpus_per_worker, "GPU": trial.resources.gpus_per_worker}]
    )


class Trials:
    """The trials of a Tune run: those that have not ended, then new ones.

    Args:
        assignment: the attempt of the sweep.
        spec: the sweep's.
        ledger: where trials are recorded.
        reporter: is told of every change.
    """

    def __init__(
        self, assignment: Assignment, spec: SweepSpec, ledger: Ledger, reporter: Reporter
    ) -> None:
        self._assignment = assignment
        self._spec = spec
        self._ledger = ledger
        self._reporter = reporter
        self._search = build_search(spec, ledger)
        self._early_stopping = build_early_stopping(spec, ledger)
        self._unfinished: deque[Entry] = deque(ledger.open())
        self.error: UserFailure | None = None
        """Why no further configuration can be drawn."""

    def left(self) -> int:
        """The number of trials to run."""
        return len(self._unfinished) + max(0, self._spec.search.trials - len(self._ledger))

    def start(self) -> Entry | None:
        """Start the next trial. None if there is none left."""
        entry = self._unfinished.popleft() if self._unfinished else self._draw()
        if entry is None:
            return None
        self._ledger.started(entry.number)
        self._reporter.changed(entry)
        logger.info("trial %d: %s", entry.number, entry.parameters)
        return entry

    def report(self, number: int, result: dict[str, Any]) -> bool:
        """Record a trial's end-of-epoch report; return False if it failed or stops early."""
        if "failure" in result:
            self._ledger.end(
                number,
                TrialState.FAILED,
                failure=result["failure"],
                reason=result["reason"],
                run_id=result["run_id"],
            )
            return False
        epoch = result["epoch"]
        if not math.isfinite(result["objective"]):
            self._ledger.end(
                number,
                TrialState.FAILED,
                failure=FailureClass.DIVERGED.value,
                reason=f"its objective was {result['objective']} after epoch {epoch}",
                run_id=result["run_id"],
            )
            return False
        self._ledger.report(number, epoch, result["objective"], result["run_id"])
        entry = self._ledger[number]
        self._reporter.changed(entry)
        return not self._early_stopping.stops(entry, epoch)

    def lost(self, number: int, reason: str) -> None:
        """Record why Tune has given up a trial."""
        self._ledger.end(
            number,
            TrialState.FAILED,
            failure=FailureClass.INFRASTRUCTURE.value,
            reason=reason,
        )
        self._reporter.changed(self._ledger[number])

    def end(self, number: int) -> None:
        """Record the end of a trial, and remove its checkpoints."""
        entry = self._ledger[number]
        if entry.state is TrialState.RUNNING:
            whole = entry.epoch >= entry.epochs
            self._ledger.end(number, TrialState.SUCCEEDED if whole else TrialState.STOPPED)
        self._search.tell(entry)
        trial = job_id_of_trial(self._assignment.job_id, number)
        Folder.of_job(self._assignment.storage, trial).remove()
        self._reporter.changed(entry)
        logger.info(
            "trial %d %s after epoch %d of %d: %s",
            number,
            entry.state.value,
            entry.epoch,
            entry.epochs,
            entry.objective,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles all it is given so that it could restore its run, which never happens here.
        return type(None), ()

    def _draw(self) -> Entry | None:
        try:
            entry = next_trial(self._search, self._spec, len(self._ledger))
        except UserFailure as error:
            self.error = error
            return None
        if entry is not None:
            self._ledger.add(entry)
        return entry


class Proposals(Searcher):  # type: ignore[misc]
    """Tune's search algorithm: hands out the trials."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """See ``Searcher``."""
        entry = self._trials.start()
        if entry is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = entry.number
        return {"number": entry.number, "parameters": entry.parameters}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See ``Searcher``."""
        number = self._numbers[trial_id]
        if error:
            self._trials.lost(number, "Ray Tune lost the trial")
        self._trials.end(number)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is saved already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is read already."""


class Reports(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler: passes on what trials report, and stops those that are to stop."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See ``TrialScheduler``."""
        continues = self._trials.report(trial.config["number"], result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)


class Errors(tune.Callback):  # type: ignore[misc]
    """Tune's callback: passes on why Tune gave up a trial."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ``tune.Callback``."""
        error = trial.get_error()
        lines = str(error).strip().splitlines() or ["Ray Tune lost the trial"]
        self._trials.lost(trial.config["number"], f"{type(error).__name__}: {lines[-1][:300]}")
