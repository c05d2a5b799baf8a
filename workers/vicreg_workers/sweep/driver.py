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
from vicreg_workers.sweep.ledger import Entry, Ledger, inherit
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
        JobFailure: no trial has reported the objective, trials could not be run, no configuration
            can be drawn, or the trials of the sweep that this one extends are lost.
    """
    spec = assignment.spec
    assert isinstance(spec, SweepSpec)
    connect(assignment.warm_start)
    if spec.extends is not None:
        inherit(assignment.storage, assignment.job_id, spec.extends.job)
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
            logger.warning("Ray Tune dropped %d trainings: resuming them", len(ledger.open()))
            trials = Trials(assignment, spec, ledger, reporter)
            _fit(assignment, spec, trials)
        if trials.error is not None:
            raise trials.error
    if ledger.open():
        raise InfrastructureFailure(f"{len(ledger.open())} trainings could not be run")
    if not any(trial.objective is not None for trial in ledger):
        failed = [trial for trial in ledger if trial.reason]
        reason = f"; the first: {failed[0].reason}" if failed else ""
        raise UserFailure(f"none of {len(ledger)} trials reported {spec.objective.metric}{reason}")


def _stop(assignment: Assignment, ledger: Ledger) -> None:
    """Let all trainings save the step that they are at, and end this process."""
    signals = [
        StopSignal(
            assignment.storage,
            job_id_of_trial(assignment.job_id, entry.number, entry.seed),
            assignment.attempt,
        )
        for entry in ledger.open()
    ]
    training = [signal for signal in signals if signal.is_training()]
    logger.warning("told to stop: %d trainings save their state", len(training))
    for signal in training:
        signal.request()
    deadline = time.monotonic() + SAVING_SECONDS
    # A training removes its marks when it has ended. Tune may start it again: that is ended with
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
    """The trainings of a Tune run: those that have not ended, then those of new trials.

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
        """The number of trainings to run, at most."""
        search = self._spec.search
        return len(self._unfinished) + max(0, search.trials - len(self._ledger)) * search.seeds

    def start(self) -> Entry | None:
        """Start the next training. None if there is none left."""
        while self._unfinished or self._draw():
            entry = self._unfinished.popleft()
            if self._ledger.decided(entry.number):
                self.end(entry)
                continue
            self._ledger.started(entry)
            self._reporter.changed(entry)
            logger.info("%s: %s", self._name(entry), entry.parameters)
            return entry
        return None

    def report(self, entry: Entry, result: dict[str, Any]) -> bool:
        """Record a training's end-of-epoch report; return False if it failed or stops early."""
        if "failure" in result:
            self._ledger.end(
                entry,
                TrialState.FAILED,
                failure=result["failure"],
                reason=result["reason"],
                run_id=result["run_id"],
            )
            return False
        epoch = result["epoch"]
        if not math.isfinite(result["objective"]):
            self._ledger.end(
                entry,
                TrialState.FAILED,
                failure=FailureClass.DIVERGED.value,
                reason=f"its objective was {result['objective']} after epoch {epoch}",
                run_id=result["run_id"],
            )
            return False
        self._ledger.report(entry, epoch, result["objective"], result["run_id"])
        self._reporter.changed(entry)
        if epoch >= entry.epochs:
            return True  # it ends by itself
        if self._ledger.decided(entry.number):
            return False
        return not self._early_stopping.stops(entry, epoch)

    def lost(self, entry: Entry, reason: str) -> None:
        """Record why Tune has given up a training."""
        self._ledger.end(
            entry,
            TrialState.FAILED,
            failure=FailureClass.INFRASTRUCTURE.value,
            reason=reason,
        )
        self._reporter.changed(entry)

    def end(self, entry: Entry) -> None:
        """Record the end of a training, and remove its checkpoints."""
        if entry.state is TrialState.RUNNING:
            whole = entry.epoch >= entry.epochs
            self._ledger.end(entry, TrialState.SUCCEEDED if whole else TrialState.STOPPED)
        training = job_id_of_trial(self._assignment.job_id, entry.number, entry.seed)
        Folder.of_job(self._assignment.storage, training).remove()
        trial = self._ledger[entry.number]
        if trial.state is not TrialState.RUNNING:
            self._search.tell(trial)
        self._reporter.changed(entry)
        logger.info(
            "%s %s after epoch %d of %d: %s",
            self._name(entry),
            entry.state.value,
            entry.epoch,
            entry.epochs,
            trial.objective,
        )

    def entry_of(self, trial: Any) -> Entry:
        """The training that a trial of Tune's is."""
        return self._ledger.entry(trial.config["number"], trial.config["seed"])

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune pickles all it is given so that it could restore its run, which never happens here.
        return type(None), ()

    def _draw(self) -> bool:
        """Draw the next trial; return False if there is none left."""
        if len(self._ledger) >= self._spec.search.trials:
            return False
        try:
            entry = next_trial(self._search, self._spec, len(self._ledger))
        except UserFailure as error:
            self.error = error
            return False
        if entry is None:
            return False
        self._ledger.add(entry, self._spec.search.seeds)
        self._unfinished.extend(self._ledger.entries(entry.number))
        return True

    def _name(self, entry: Entry) -> str:
        seeds = self._spec.search.seeds
        seed = f", seed {entry.seed + 1} of {seeds}" if seeds > 1 else ""
        return f"trial {entry.number}{seed}"


class Proposals(Searcher):  # type: ignore[misc]
    """Tune's search algorithm: hands out the trainings."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials
        self._entries: dict[str, Entry] = {}

    def suggest(self, trial_id: str) -> Any:
        """See ``Searcher``."""
        entry = self._trials.start()
        if entry is None:
            return Searcher.FINISHED
        self._entries[trial_id] = entry
        return {"number": entry.number, "seed": entry.seed, "parameters": entry.parameters}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """See ``Searcher``."""
        entry = self._entries[trial_id]
        if error:
            self._trials.lost(entry, "Ray Tune lost the trial")
        self._trials.end(entry)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is saved already."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger is read already."""


class Reports(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler: passes on what trainings report, and stops those that are to stop."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self._trials = trials

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """See ``TrialScheduler``."""
        continues = self._trials.report(self._trials.entry_of(trial), result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)


class Errors(tune.Callback):  # type: ignore[misc]
    """Tune's callback: passes on why Tune gave up a training."""

    def __init__(self, trials: Trials) -> None:
        self._trials = trials

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """See ``tune.Callback``."""
        error = trial.get_error()
        lines = str(error).strip().splitlines() or ["Ray Tune lost the trial"]
        entry = self._trials.entry_of(trial)
        self._trials.lost(entry, f"{type(error).__name__}: {lines[-1][:300]}")
