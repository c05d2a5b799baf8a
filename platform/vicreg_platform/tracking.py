"""MLflow, for the control plane and the workers: its client's settings, and the calls.

Importing MLflow takes more than a second: it is imported by the first call, not with this module.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from vicreg_platform.contract.checkpoint import (
    CHECKPOINT_NAME,
    CHECKPOINTS,
    MOST_TOLD,
    CheckpointReport,
    read_checkpoint_report,
)
from vicreg_platform.contract.importance import Importance, read_importance
from vicreg_platform.contract.progress import Progress, read_progress
from vicreg_platform.contract.tags import (
    ATTEMPT_TAG,
    CHECKPOINTS_TAG,
    EXTENDS_TAG,
    IMPORTANCE_TAG,
    JOB_TAG,
    KIND_TAG,
    LABEL_PREFIX,
    PARENT_TAG,
    PROGRESS_TAG,
    TIMELINE_TAG,
    TRIAL_NUMBER_TAG,
    TRIAL_TAG,
    USER_TAG,
)
from vicreg_platform.contract.timeline import AttemptTimeline, read_timeline
from vicreg_platform.contract.trial import Trial, TrialState, read_trial
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.telemetry import CALL_FAILURES, CALL_SECONDS

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

# MLflow's client reads these at every call. Its own defaults wait minutes for a dead server; here
# every caller retries by itself.
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
os.environ.setdefault(TIMEOUT, "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
UPLOAD_SECONDS = "1800"
"""The server answers an upload once it has stored all of it: gigabytes, for a wide expander."""
_TRIAL_STATUS = {
    TrialState.SUCCEEDED: "FINISHED",
    TrialState.STOPPED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.CANCELLED: "KILLED",
}
LOG_BYTES = 256 * 2**20
"""How much of a log is stored."""
PIECE_BYTES = 2**16
ENCODER = "encoder"
"""The artifact that holds a run's encoder."""
MAX_ARTIFACTS = 1000
"""How many of a run's artifacts are listed."""
_importing = threading.Lock()
_TRANSIENT = (429, 500, 502, 503, 504)
SEED_PARAM = "training.seed"
"""The parameter of a run that is its seed."""
PARAM_LENGTH = 6000
"""MLflow's limit on a parameter's value."""


@dataclass(frozen=True)
class RunReading:
    """What a run says of itself."""

    progress: Progress | None
    timeline: AttemptTimeline | None
    metrics: dict[str, float]
    """The latest value of each; non-finite values are left out, because JSON has none."""


@dataclass(frozen=True)
class Training:
    """What the run of one of a trial's trainings says of itself."""

    run_id: str
    experiment_id: str
    seed: int
    status: str
    """MLflow's: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``."""
    reading: RunReading


@dataclass(frozen=True)
class MetricPoint:
    """One point of a curve."""

    step: int
    value: float
    timestamp: int
    """Milliseconds since 1970."""


@dataclass(frozen=True)
class Artifact:
    """A file that is stored with a run."""

    path: str
    size: int | None
    """In bytes."""


def import_mlflow() -> None:
    """Import MlflowClient and all that it needs, in one thread at a time.

    They are imported late, because they take seconds, and import each other in a circle: of two
    threads that begin it in different places, each would be given modules that are not whole.
    """
    with _importing:
        import mlflow.tracking  # noqa: F401


def mlflow_client(url: str) -> MlflowClient:
    """A client of the server at ``url`` that waits 10 s for an answer and does not retry."""
    import_mlflow()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=url)


@contextmanager
def patient_uploads() -> Iterator[None]:
    """Wait up to ``UPLOAD_SECONDS`` for each answer.

    Only for a process in which one thread alone talks to MLflow: the setting is the process's.
    """
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = UPLOAD_SECONDS
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


class Tracking:
    """An MLflow server. Every method raises TrackingUnavailable if it is unreachable.

    Args:
        url: its address.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _client(self) -> MlflowClient:
        return mlflow_client(self._url)

    def ping(self) -> None:
        """Check that the server is reachable."""
        try:
            with CALL_SECONDS.labels("mlflow").time():
                answer = requests.get(f"{self._url}/health", timeout=5)
                answer.raise_for_status()
        except requests.RequestException as error:
            raise self._unreachable() from error

    def ensure_run(
        self, job_id: str, name: str, experiment: str, spec: dict[str, Any], parent: str | None
    ) -> tuple[str, str]:
        """The run of a job, created by the first call and found by each later one.

        Args:
            job_id: stored as a tag, by which the run is found.
            name: of the run in the MLflow UI.
            experiment: created if it does not exist.
            spec: becomes the run's parameters, flattened.
            parent: the run under which the UI shows this one.

        Returns:
            The ids of the run and of its experiment.
        """
        with self._answering():
            from mlflow.entities import Param

            experiment_id = self._experiment(experiment)
            found = self._find_run(job_id, experiment_id)
            run = found or self._create_run(job_id, name, experiment_id, spec, parent)
            run_id: str = run.info.run_id
            if not run.data.params:  # also for a run whose creator died right here
                parameters = [Param(k, v[:PARAM_LENGTH]) for k, v in flatten(spec).items()]
                self._client.log_batch(run_id, params=parameters)
            return run_id, experiment_id

    def run_of_job(self, job_id: str, experiment: str) -> tuple[str, str] | None:
        """The ids of a job's run and of its experiment; None if there is none.

        Args:
            job_id: the job's; of a trial's run, see ``job_id_of_trial``.
            experiment: its name.
        """
        with self._answering():
            found = self._find_run(job_id, self._experiment(experiment))
        return None if found is None else (found.info.run_id, found.info.experiment_id)

    def remove_duplicates(self, job_id: str, experiment: str, run_id: str) -> None:
        """Delete the runs of an ended job other than ``run_id``.

        A request to create a run that timed out may have been executed later.
        """
        with self._answering():
            for run in self._runs_of(job_id, self._experiment(experiment)):
                if run.info.run_id != run_id:
                    self._client.delete_run(run.info.run_id)

    def _find_run(self, job_id: str, experiment_id: str) -> Run | None:
        """The job's run; among several, the one that a driver has written to, or the first."""
        return min(
            self._runs_of(job_id, experiment_id),
            key=lambda run: (ATTEMPT_TAG not in run.data.tags, run.info.start_time),
            default=None,
        )

    def _runs_of(self, job_id: str, experiment_id: str) -> list[Run]:
        query = f"tags.`{JOB_TAG}` = '{job_id}'"
        return list(self._client.search_runs([experiment_id], query, max_results=100))

    def _create_run(
        self, job_id: str, name: str, experiment_id: str, spec: dict[str, Any], parent: str | None
    ) -> Run:
        tags = {JOB_TAG: job_id, KIND_TAG: str(spec["kind"]), USER_TAG: "vicreg"}
        tags |= {f"{LABEL_PREFIX}{key}": value for key, value in spec.get("labels", {}).items()}
        if parent is not None:
            tags[PARENT_TAG] = parent
        return self._client.create_run(experiment_id, tags=tags, run_name=name)

    def set_labels(self, run_id: str, labels: Mapping[str, str]) -> None:
        """Give a run these labels of its job, and no others.

        Raises:
            NotFound: the run is gone, or deleted.
        """
        wanted = {f"{LABEL_PREFIX}{key}": value for key, value in labels.items()}
        with self._answering():
            from mlflow.entities import RunTag

            run = self._client.get_run(run_id)
            if run.info.lifecycle_stage == "deleted":
                raise NotFound(f"run {run_id} is deleted")
            changed = [RunTag(name, value) for name, value in wanted.items()]
            if changed:
                self._client.log_batch(run_id, tags=changed)
        for name in run.data.tags:
            if name.startswith(LABEL_PREFIX) and name not in wanted:
                # Someone else may have removed it meanwhile.
                with suppress(NotFound), self._answering():
                    self._client.delete_tag(run_id, name)

    def read(self, run_id: str) -> RunReading:
        """The progress and timeline of a run, and the latest value of each of its metrics."""
        with self._answering():
            return _reading(self._client.get_run(run_id))

    def trials(self, run_id: str) -> list[tuple[Trial, str, str]]:
        """The trials of a sweep, each with the ids of the run of its first seed and experiment.

        Those of the sweep that it extends are among them. A run whose tag is not a trial's, for
        example because someone edited it, is left out.
        """
        children = [child for family in self._families(run_id) for child in family]
        return [
            (trial, child.info.run_id, child.info.experiment_id)
            for child in children
            if (trial := read_trial(child.data.tags.get(TRIAL_TAG))) is not None
        ]

    def trainings(self, run_id: str, number: int) -> list[Training]:
        """The trainings of a sweep's trial, the first seed's first; none if there is no such trial.

        Args:
            run_id: the sweep's run. The trial may be one of the sweep that it extends.
            number: the trial's.
        """
        of_trial = f"tags.`{TRIAL_NUMBER_TAG}` = '{number}'"
        found = next((family for family in self._families(run_id, of_trial) if family), [])
        found.sort(key=lambda run: str(run.data.tags.get(JOB_TAG)))
        return [
            Training(
                run.info.run_id,
                run.info.experiment_id,
                _number(run.data.params.get(SEED_PARAM), default=place),
                run.info.status,
                _reading(run),
            )
            for place, run in enumerate(found)
        ]

    def _families(self, run_id: str, condition: str = "") -> Iterator[list[Run]]:
        """The runs under a sweep's, then those under each sweep that it extends, if it is there.

        Each sweep is looked at once: a tag that someone edited may lead back.

        Args:
            run_id: the sweep's run.
            condition: see ``_children``.
        """
        seen: set[str] = set()
        following: str | None = run_id
        while following is not None and following not in seen:
            seen.add(following)
            try:
                with self._answering():
                    sweep = self._client.get_run(following)
                    family = self._children(sweep, condition)
            except NotFound:
                if following == run_id:
                    raise
                return
            yield family
            following = sweep.data.tags.get(EXTENDS_TAG)

    def cancel_trials(self, run_id: str) -> None:
        """Show the open trials of an ended sweep as cancelled, and close their runs."""
        for trial, trial_run, _ in self.trials(run_id):
            if trial.state is TrialState.RUNNING:
                cancelled = trial.model_copy(update={"state": TrialState.CANCELLED})
                self.store_trial(trial_run, cancelled)
        with self._answering():
            children = self._children(self._client.get_run(run_id))
            open_runs = [run for run in children if run.info.status == "RUNNING"]
        for run in open_runs:
            self.end_training(run.info.run_id, TrialState.CANCELLED)

    def _children(self, parent: Run, condition: str = "") -> list[Run]:
        """The runs under a run, those for which a condition of MLflow's search holds."""
        under = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'"
        children: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [parent.info.experiment_id],
                f"{under} AND {condition}" if condition else under,
                max_results=1000,
                page_token=token,
            )
            children += page
            token = page.token
            if not token:
                return children

    def importance(self, run_id: str) -> Importance | None:
        """What a sweep's driver has found of its parameters; None if nothing yet."""
        with self._answering():
            return read_importance(self._client.get_run(run_id).data.tags.get(IMPORTANCE_TAG))

    def begin_training(self, run_id: str, trial: Trial, seed: int) -> None:
        """Show a trial's training, and with its first seed the trial.

        One that resumes keeps its state.

        Args:
            run_id: the training's run.
            trial: a new one.
            seed: which of the trial's seeds, from 0.
        """
        with self._answering():
            self._client.set_tag(run_id, TRIAL_NUMBER_TAG, trial.number)
            if seed == 0 and TRIAL_TAG not in self._client.get_run(run_id).data.tags:
                self._client.set_tag(run_id, TRIAL_TAG, trial.model_dump_json())

    def store_trial(self, run_id: str, trial: Trial) -> None:
        """Store a trial's state with the run of its first seed."""
        with self._answering():
            self._client.set_tag(run_id, TRIAL_TAG, trial.model_dump_json())

    def end_training(self, run_id: str, state: TrialState) -> None:
        """Close the run of a trial's training."""
        self.finish(run_id, _TRIAL_STATUS[state])

    def history(self, run_id: str, metric: str) -> list[MetricPoint]:
        """The points of one curve, in the order of their steps; finite ones alone."""
        with self._answering():
            points = self._client.get_metric_history(run_id, metric)
        return sorted(
            (
                MetricPoint(point.step, point.value, point.timestamp)
                for point in points
                # MLflow stores an infinity as the largest number.
                if math.isfinite(point.value) and abs(point.value) < sys.float_info.max
            ),
            key=lambda point: (point.step, point.timestamp),
        )

    def artifacts(self, run_id: str) -> list[Artifact]:
        """Everything stored with a run but its logs, by path."""
        found: list[Artifact] = []
        folders: list[str | None] = [None]
        with self._answering():
            while folders and len(found) < MAX_ARTIFACTS:
                for entry in self._client.list_artifacts(run_id, folders.pop()):
                    if entry.is_dir:
                        folders.append(entry.path)
                    else:
                        found.append(Artifact(entry.path, entry.file_size))
        return sorted(
            (each for each in found if not each.path.startswith("logs/")),
            key=lambda each: each.path,
        )

    def checkpoints(self, run_id: str) -> tuple[CheckpointReport | None, dict[str, int]]:
        """The checkpoints of a run.

        Returns:
            Those that its workers say are in the storage, None if they have not said; and the sizes
            in bytes of those that are artifacts, by name.
        """
        with self._answering():
            tags = self._client.get_run(run_id).data.tags
            folders = self._client.list_artifacts(run_id, CHECKPOINTS)
            names = {folder.path.rpartition("/")[2]: folder.path for folder in folders}
            newest = sorted(filter(CHECKPOINT_NAME.fullmatch, names))[-MOST_TOLD:]
            uploaded = {
                name: sum(
                    file.file_size or 0 for file in self._client.list_artifacts(run_id, names[name])
                )
                for name in newest
            }
        return read_checkpoint_report(tags.get(CHECKPOINTS_TAG)), uploaded

    def artifact(self, run_id: str, path: str) -> tuple[Iterator[bytes], int | None]:
        """An artifact, in pieces as the server sends it, and its size if the server says it.

        Raises:
            NotFound: the run has no such artifact.
        """
        try:
            answer = requests.get(
                f"{self._url}/get-artifact",
                params={"run_id": run_id, "path": path},
                stream=True,
                timeout=30,
            )
        except requests.RequestException as error:
            raise self._unreachable() from error
        if not answer.ok:
            answer.close()
            if answer.status_code in _TRANSIENT and answer.status_code != 500:
                raise self._unreachable()
            # MLflow answers 500 for a path that it does not have.
            raise NotFound(f"the run has no artifact '{path}'")
        size = answer.headers.get("content-length", "")
        return _pieces(answer), int(size) if size.isdecimal() else None

    def store_log(self, run_id: str, attempt: int, log: Iterable[bytes]) -> None:
        """Store an attempt's log, given in pieces, with the run.

        What is beyond ``LOG_BYTES`` is left out.
        """
        folder, name = _log_path(attempt).split("/")
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / name
            with file.open("wb") as written:
                for piece in log:
                    room = LOG_BYTES - written.tell()
                    written.write(piece[:room])
                    if len(piece) > room:
                        written.write(b"\n[the rest of this log is left out]\n")
                        break
            with self._answering():
                self._client.log_artifact(run_id, str(file), folder)

    def has_log(self, run_id: str, attempt: int) -> bool:
        """Whether an attempt's log is stored with the run."""
        with self._answering():
            kept = {artifact.path for artifact in self._client.list_artifacts(run_id, "logs")}
        return _log_path(attempt) in kept

    def log(self, run_id: str, attempt: int) -> Iterator[bytes]:
        """An attempt's log, in pieces.

        Raises:
            NotFound: none is stored.
        """
        if not self.has_log(run_id, attempt):
            raise NotFound(f"no log of attempt {attempt} is stored")
        pieces, _ = self.artifact(run_id, _log_path(attempt))
        return pieces

    def download(self, uri: str, folder: Path) -> Path:
        """Download artifacts into ``folder``.

        Args:
            uri: such as ``runs:/<run>/encoder`` or ``models:/<name>/1``.
            folder: an existing folder.

        Raises:
            NotFound: MLflow has nothing there.
        """
        import_mlflow()
        import mlflow
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException, RestException

        with self._answering():
            # The registry's address follows this one; an argument of the download would not.
            mlflow.set_tracking_uri(self._url)
            try:
                return Path(download_artifacts(uri, dst_path=str(folder)))
            except MlflowException as error:
                if isinstance(error, RestException) or "API request" in str(error):
                    raise
                raise NotFound(f"MLflow has nothing at {uri}: {error}") from None

    def version_of(self, address: str) -> str:
        """The version that an address in the model registry stands for now.

        Args:
            address: ``models:/<name>/<version>``, which stands for itself,
                ``models:/<name>@<alias>``, or what else MLflow takes: ``models:/<name>/latest``,
                or a stage in its place.

        Raises:
            NotFound: no version has the alias, or there is none.
        """
        with self._answering():
            from mlflow.exceptions import MlflowException, RestException
            from mlflow.store.artifact.utils.models import get_model_name_and_version

            try:
                name, version = get_model_name_and_version(self._client, address)
            except MlflowException as error:
                # So MLflow answers for an alias that is not there, and its client for no version.
                answered = isinstance(error, RestException)
                if answered and error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                if not answered and "API request" in str(error):
                    raise
                raise NotFound(f"there is no {address}: {error}") from None
        return f"models:/{name}/{version}"

    def register(self, run_id: str, model: str, tags: dict[str, str], alias: str | None) -> int:
        """Make a version of a registered model from a run's artifact ``encoder/``.

        A run has one version of a model: a later call finds it, and updates its tags.

        Args:
            run_id: the run.
            model: the registered model; it is created if it does not exist.
            tags: of the version.
            alias: moved to the version, if given.

        Returns:
            The number of the version.

        Raises:
            NotFound: the run has no encoder.
            TrackingRefused: MLflow does not accept the name, the alias or a tag.
        """
        with self._answering():
            if not self._client.list_artifacts(run_id, ENCODER):
                raise NotFound(f"run {run_id} has no encoder to register")
            self._ensure_model(model)
            if not self._versions(run_id, model):
                source = f"runs:/{run_id}/{ENCODER}"
                made = self._client.create_model_version(
                    model, source, run_id, tags, await_creation_for=0
                )
                # Of two concurrent calls, the later version gives way.
                if int(made.version) != self._versions(run_id, model)[0][0]:
                    self._client.delete_model_version(model, made.version)
            version, stored = self._versions(run_id, model)[0]
            for key, value in tags.items():
                if stored.get(key) != value:
                    self._client.set_model_version_tag(model, str(version), key, value)
            if alias is not None:
                self._client.set_registered_model_alias(model, alias, str(version))
        return version

    def _ensure_model(self, model: str) -> None:
        from mlflow.exceptions import RestException

        try:
            self._client.create_registered_model(model)
        except RestException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _versions(self, run_id: str, model: str) -> list[tuple[int, dict[str, str]]]:
        """The versions of a model that are from a run, oldest first, with their tags."""
        found = self._client.search_model_versions(f"run_id = '{run_id}'")
        versions = [(int(each.version), dict(each.tags)) for each in found if each.name == model]
        return sorted(versions, key=lambda version: version[0])

    def finish(self, run_id: str, status: str, ended: datetime | None = None) -> None:
        """Close a run: ``FINISHED``, ``FAILED`` or ``KILLED``.

        Args:
            run_id: the run.
            status: its final status.
            ended: when it ended; default: now.
        """
        end_time = None if ended is None else int(ended.timestamp() * 1000)
        with self._answering():
            self._client.set_terminated(run_id, status=status, end_time=end_time)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import RestException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            known: str = found.experiment_id
            return known
        try:
            made: str = self._client.create_experiment(name)
            return made
        except RestException as error:
            # Another process created it meanwhile.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise error
            between: str = found.experiment_id
            return between

    @contextmanager
    def _answering(self) -> Iterator[None]:
        import_mlflow()
        from mlflow.exceptions import MlflowException, RestException

        try:
            with CALL_SECONDS.labels("mlflow").time():
                yield
        except RestException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise NotFound(f"MLflow: {error.message}") from error
            if error.get_http_status_code() in _TRANSIENT:
                CALL_FAILURES.labels("mlflow").inc()
                raise TrackingUnavailable(
                    f"MLflow failed at {self._url}: {error.message}"
                ) from error
            raise TrackingRefused(f"MLflow refused at {self._url}: {error.message}") from error
        except (MlflowException, requests.RequestException, OSError) as error:
            raise self._unreachable() from error

    def _unreachable(self) -> TrackingUnavailable:
        CALL_FAILURES.labels("mlflow").inc()
        return TrackingUnavailable(f"MLflow is unreachable at {self._url}")


def thinned(points: Sequence[MetricPoint], most: int) -> list[MetricPoint]:
    """At most ``most`` of the points, evenly spaced, the first and the last among them.

    Args:
        points: in the order of their steps.
        most: 2 or more.
    """
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def is_refusal(error: Exception) -> bool:
    """Whether an error is MLflow's own refusal, which would be the same at the next attempt."""
    import_mlflow()
    from mlflow.exceptions import RestException

    if isinstance(error, RestException):
        return error.get_http_status_code() not in _TRANSIENT
    return isinstance(error, TrackingRefused | NotFound)


def flatten(spec: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The spec's fields by their dotted names, as text."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _reading(run: Run) -> RunReading:
    metrics = {name: value for name, value in run.data.metrics.items() if math.isfinite(value)}
    return RunReading(
        read_progress(run.data.tags.get(PROGRESS_TAG)),
        read_timeline(run.data.tags.get(TIMELINE_TAG)),
        metrics,
    )


def _number(written: str | None, default: int) -> int:
    return int(written) if written is not None and written.isdecimal() else default


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    with answer:
        yield from answer.iter_content(PIECE_BYTES)


def _log_path(attempt: int) -> str:
    return f"logs/attempt-{attempt}.log"
