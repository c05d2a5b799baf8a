"""Reports a sweep to MLflow: its own run, and each trial's state on the run of its first seed."""

from __future__ import annotations

import json
import logging
import threading
import time

import torch

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Progress
from vicreg_platform.contract.tags import ATTEMPT_TAG, EXTENDS_TAG, IMPORTANCE_TAG
from vicreg_platform.contract.timeline import AttemptTimeline, Timeline
from vicreg_platform.contract.trial import Trial, TrialState, job_id_of_trial
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.specs import SweepSpec
from vicreg_platform.tracking import Tracking
from vicreg_workers.failures import InfrastructureFailure
from vicreg_workers.sweep import plots
from vicreg_workers.sweep.importance import importance
from vicreg_workers.sweep.ledger import Entry, Ledger
from vicreg_workers.tracking.machine import environment_tags
from vicreg_workers.tracking.outbox import CLOSE_SECONDS, FAILED_CLOSE_SECONDS, Outbox
from vicreg_workers.tracking.run import run_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


class Reporter:
    """Sends what the ledger holds to MLflow, from a thread that retries until MLflow has it.

    As a context manager it waits at the end until everything is sent.

    Args:
        assignment: the attempt of the sweep.
        spec: the sweep's.
        ledger: the sweep's trials.
        timeline: what the attempt has reached so far.

    Raises:
        InfrastructureFailure: on exit, if MLflow accepts nothing for 10 minutes.
    """

    def __init__(
        self, assignment: Assignment, spec: SweepSpec, ledger: Ledger, timeline: Timeline
    ) -> None:
        self._assignment = assignment
        self._spec = spec
        self._ledger = ledger
        self._started = time.monotonic()
        self._ended_before = len(ledger.entries()) - len(ledger.open())
        self._outbox = Outbox(
            assignment.tracking_uri,
            run_of(assignment),
            resumed=True,
            timeline=AttemptTimeline(attempt=assignment.attempt, timeline=timeline),
        )
        extends = {EXTENDS_TAG: assignment.extended_run_id} if assignment.extended_run_id else {}
        self._outbox.tags(
            environment_tags(torch.device("cpu")) | {ATTEMPT_TAG: str(assignment.attempt)} | extends
        )
        self._reported = -1
        self._waiting: dict[int, tuple[Trial, list[Entry]]] = {}
        """By number: trials that MLflow does not show as they are, and their trainings."""
        self._ended: set[str] = set()
        """Runs whose end MLflow knows: told again, it would be later."""
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._send_all, name="reporter", daemon=True)

    def __enter__(self) -> Reporter:
        self._outbox.__enter__()
        self._thread.start()
        for entry in self._ledger.entries():  # what the driver before had no time to send
            self.changed(entry)
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS if kind is None else FAILED_CLOSE_SECONDS)
        if self._thread.is_alive() and kind is None:
            raise InfrastructureFailure(
                f"MLflow accepted nothing for {CLOSE_SECONDS:g} s after the trials had ended"
            )
        self._outbox.__exit__(kind, *others)

    def changed(self, entry: Entry) -> None:
        """Report a training that has started, reached the end of an epoch, or ended."""
        entries = [each.model_copy(deep=True) for each in self._ledger.entries(entry.number)]
        with self._changed:
            self._waiting[entry.number] = self._ledger[entry.number], entries
            self._changed.notify()
        self._report_sweep(entry)

    def _report_sweep(self, entry: Entry) -> None:
        """Report the whole sweep on its own run."""
        trials, entries = list(self._ledger), self._ledger.entries()
        trials_ended = sum(trial.state is not TrialState.RUNNING for trial in trials)
        ended = sum(each.state is not TrialState.RUNNING for each in entries)
        trained = sum(each.epoch for each in entries)
        best = self._ledger.best()
        # Grows by one with every epoch trained and every training ended, whichever driver counts.
        events = trained + ended
        if events <= self._reported:
            return
        self._reported = events
        metrics = {
            "sweep/trials": float(len(trials)),
            "sweep/trials_ended": float(trials_ended),
            "sweep/epochs": float(trained),
            "sweep/refused": float(sum(each.refused for each in entries)),
        }
        if best is not None and best.objective is not None:
            metrics["sweep/best"] = best.objective
        self._outbox.metrics(metrics, events)
        search = self._spec.search
        wanted = self._spec.trials * search.seeds
        here = ended - self._ended_before
        spent = time.monotonic() - self._started
        longest = max((each.epochs for each in entries), default=0)
        self._outbox.progress(
            Progress(
                epoch=trials_ended,
                epochs=self._spec.trials,
                step=trained,
                steps=wanted * longest,
                images_per_second=0.0,
                eta_seconds=spent / here * (wanted - ended) if here else 0.0,
            )
        )
        if entry.state is TrialState.RUNNING or best is None:
            return
        found = {
            "trial": best.number,
            "objective": best.objective,
            "std": best.std,
            "values": best.values,
            "parameters": best.parameters,
            "spec": self._spec.trial_spec(best.parameters).model_dump(mode="json"),
        }
        self._outbox.file("sweep/best.json", json.dumps(found, indent=1).encode())
        self._outbox.file(
            "sweep/parallel_coordinates.png",
            plots.parallel_coordinates(self._spec, trials),
        )
        self._outbox.file("sweep/objective.png", plots.objective(self._spec, self._ledger))
        self._outbox.tags({IMPORTANCE_TAG: importance(self._spec, trials).model_dump_json()})

    def _send_all(self) -> None:
        tracking = Tracking(self._assignment.tracking_uri)
        failing = False
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                number = next(iter(self._waiting))
                trial, entries = self._waiting.pop(number)
            try:
                self._send(tracking, trial, entries)
                failing = False
            except TrackingUnavailable as error:
                if not failing:
                    logger.warning("MLflow is unreachable; the sweep continues: %s", error)
                failing = True
                with self._changed:
                    self._waiting.setdefault(number, (trial, entries))
                time.sleep(RETRY_SECONDS)
            except (TrackingRefused, NotFound) as error:
                logger.warning("trial %d cannot be reported to MLflow: %s", number, error)

    def _send(self, tracking: Tracking, trial: Trial, entries: list[Entry]) -> None:
        for entry in entries:
            run_id = self._run_of(tracking, entry)
            if run_id is None:
                continue
            if entry.seed == 0:
                tracking.store_trial(run_id, trial)
            if entry.state is not TrialState.RUNNING and run_id not in self._ended:
                tracking.end_training(run_id, entry.state)
                self._ended.add(run_id)

    def _run_of(self, tracking: Tracking, entry: Entry) -> str | None:
        if entry.run_id is not None or entry.state is TrialState.RUNNING or not entry.starts:
            return entry.run_id  # the training's own process creates the run and reports its id
        training = job_id_of_trial(self._assignment.job_id, entry.number, entry.seed)
        run = tracking.run_of_job(training, self._spec.experiment)
        return run and run[0]
