"""The context of a real run: metrics and figures go to MLflow, checkpoints to the storage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.contract.progress import Finding, Progress
from vicreg_platform.specs import PretrainSpec
from vicreg_workers.checkpoints import Checkpoints
from vicreg_workers.device import name_of, peak_memory
from vicreg_workers.encoder import encoder_files
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.capture import CAPTURE, Capture
from vicreg_workers.selfsup.context import Moment, State, TrainingProgress
from vicreg_workers.selfsup.distributed import gather_objects, rank
from vicreg_workers.storage import Folder
from vicreg_workers.tracking.outbox import Outbox
from vicreg_workers.weights import DESCRIPTION, WEIGHTS, kept_encoder

logger = logging.getLogger(__name__)

UNSENT = "unsent_metrics"
"""Key in a worker's own state: the points that MLflow did not have when it was saved."""
DRAIN_SECONDS = 5.0
"""How long a trial waits at an epoch's end for MLflow: the sweep may stop it there."""

Report = Callable[[dict[str, Any]], None]


class RunContext:
    """The ``Context`` of one worker of a pretraining job.

    Args:
        assignment: the attempt.
        checkpoints: the job's.
        outbox: the run's, on rank 0; else None.
        device: what this worker trains on.
        loaders: processes that it may use to read images.
        stopping: whether the worker has been asked to stop.
        report: for a sweep's trial: called by every worker at the end of each epoch with
            ``epoch``, ``objective`` and ``run_id``. Does not return if the trial stops early.
    """

    def __init__(
        self,
        assignment: Assignment,
        checkpoints: Checkpoints,
        outbox: Outbox | None,
        device: torch.device,
        loaders: int,
        stopping: Callable[[], bool],
        report: Report | None = None,
    ) -> None:
        self.device = device
        self.loaders = loaders
        self._assignment = assignment
        self._checkpoints = checkpoints
        self._outbox = outbox
        self._stopping = stopping
        self._report = report
        self._latest: dict[str, float] = {}
        self._known: set[str] = set()
        self._findings: dict[str, Finding] = {}
        self._kept_epoch: int | None = None
        self._resumed_at = 0
        self._progress: TrainingProgress | None = None

    def metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """See ``Context.metrics``."""
        self._latest |= metrics
        if self._outbox is not None:
            self._outbox.metrics(metrics, step)

    def progress(self, progress: TrainingProgress) -> None:
        """See ``Context.progress``."""
        self._progress = progress
        if self._outbox is not None:
            self._outbox.progress(
                Progress(
                    **asdict(progress),
                    saved_at=self._checkpoints.saved_at,
                    kept_epoch=self._kept_epoch,
                    resumed_at=self._resumed_at,
                    device=name_of(self.device),
                    peak_memory=peak_memory(self.device),
                    findings=tuple(self._findings.values()),
                )
            )

    def reached(self, moment: Moment) -> None:
        """See ``Context.reached``."""
        if self._outbox is not None:
            self._outbox.reached(moment)

    def figure(self, path: str, png: bytes) -> None:
        """See ``Context.figure``."""
        if self._outbox is not None:
            self._outbox.file(path, png)

    def warn(self, message: str) -> None:
        """See ``Context.warn``."""
        if rank() == 0:
            logger.warning(message)

    def keep_encoder(self, backbone: nn.Module, epoch: int, step: int) -> None:
        """See ``Context.keep_encoder``. Every worker calls it; the first one writes.

        A sweep's trial keeps none: nothing evaluates it.
        """
        spec = self._assignment.spec
        assert isinstance(spec, PretrainSpec)
        if rank() != 0 or self._report is not None:
            return
        folder = kept_encoder(self._assignment.storage, self._assignment.job_id, epoch)
        try:
            for name, content in encoder_files(backbone, spec, step).items():
                folder.write(name, content)
        except Exception as error:  # whatever the storage raises: the training is worth more
            self.warn(
                f"the encoder of epoch {epoch} cannot be kept in {folder}, and its evaluations "
                f"will fail: {type(error).__name__}: {error}"
            )
            return
        self._kept_epoch = epoch

    def finding(self, name: str, text: str | None) -> None:
        """See ``Context.finding``. It is part of the progress, and logged when it is new."""
        if text is None:
            if self._findings.pop(name, None) is None:
                return
        else:
            if name not in self._findings:
                self.warn(f"{name}: {text}")
            self._findings[name] = Finding(name=name, text=text)
        # What the last measurement finds would otherwise never be told.
        if self._progress is not None:
            self.progress(self._progress)

    def capture(self, take: Callable[[], Capture | None]) -> str | None:
        """See ``Context.capture``. The first worker writes ``capture.pt`` into the job's folder.

        A sweep's trial leaves none: that some diverge is how a search finds the limits.
        """
        if self._report is not None:
            return None
        job_id = self._assignment.job_id
        folder = Folder.of_job(self._assignment.storage, job_id)
        kept = True
        try:
            capture = take()
            if capture is not None:
                with folder.writer(CAPTURE) as file:
                    capture.save(file)
        except Exception as error:  # whatever data and storage raise: the divergence is the news
            self.warn(f"the step cannot be kept in {folder}: {type(error).__name__}: {error}")
            kept = False
        return f"`vicreg replay {job_id}` repeats the step" if gather_objects(kept)[0] else None

    def will_save(self, state: State) -> None:
        """See ``Context.will_save``."""
        self._checkpoints.make_room(state)

    def save(self, state: State) -> None:
        """See ``Context.save``. Points that MLflow does not have yet are saved with it."""
        if self._outbox is not None:
            points = [tuple(point) for point in self._outbox.unsent()]
            state = replace(state, own=state.own | {UNSENT: points})
        self._checkpoints.save(state)

    def finish_saving(self) -> None:
        """See ``Context.finish_saving``."""
        self._checkpoints.finish()

    def restore(self) -> State | None:
        """See ``Context.restore``. A job that retries another starts from that one's state."""
        state = self._checkpoints.load()
        if state is not None:
            if self._outbox is not None:
                self._outbox.restore_unsent(state.own.get(UNSENT, []))
        else:
            retried = map(self._checkpoints.of_job, self._assignment.resume_from)
            states = (checkpoints.load() for checkpoints in retried)
            state = next((each for each in states if each is not None), None)
            if state is not None:
                # Saved as this job's own: it may have nothing left to train, or be retried itself.
                own = {name: value for name, value in state.own.items() if name != UNSENT}
                state = replace(state, own=own)
                self._checkpoints.save(state)
        self._resumed_at = 0 if state is None else state.step
        if state is not None and rank() == 0:
            logger.info("resuming from the checkpoint after step %d", state.step)
            self._find_kept()
        return state

    def _find_kept(self) -> None:
        """Find the encoders kept before, those of the jobs that this one continues too."""
        spec, storage = self._assignment.spec, self._assignment.storage
        assert isinstance(spec, PretrainSpec)
        for epoch in spec.kept_epochs:
            own = kept_encoder(storage, self._assignment.job_id, epoch)
            for job in self._assignment.resume_from:
                other = kept_encoder(storage, job, epoch)
                if not own.holds(DESCRIPTION) and other.holds(DESCRIPTION):
                    # The description comes last: where it is, the weights are.
                    for name in (WEIGHTS, DESCRIPTION):
                        own.write(name, other.read(name))
            if own.holds(DESCRIPTION):
                self._kept_epoch = epoch

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """See ``Context.epoch_ended``. Reports the objective of a sweep's trial.

        What was saved is complete by then: the sweep may stop the trial there.

        Raises:
            UserFailure: after the last epoch, if the objective was never logged.
        """
        objective = self._assignment.objective
        if self._report is None or objective is None:
            return
        self._known |= self._latest.keys()
        (value, known), *_ = gather_objects((self._latest.get(objective), sorted(self._known)))
        self._latest.clear()
        if objective not in known and epoch == epochs:
            raise UserFailure(
                f"objective.metric: this training does not log {objective}; "
                f"it logs {', '.join(known)}"
            )
        if value is not None:
            self._checkpoints.finish()
            if self._outbox is not None:
                self._outbox.drain(DRAIN_SECONDS)
            self._report({"epoch": epoch, "objective": value, "run_id": self._assignment.run_id})

    def stopping(self) -> bool:
        """See ``Context.stopping``."""
        return self._stopping()
