"""Every MLflow tag that the platform sets or reads, by the side that writes it."""

# Set when a run is created, by the job's driver or the trial's process.
JOB_TAG = "vicreg.job_id"
"""The job, or the trial, that the run belongs to."""
KIND_TAG = "vicreg.kind"
LABEL_PREFIX = "label."
"""Followed by the key of a label of the job; the dispatcher brings changes of them."""
USER_TAG = "mlflow.user"
PARENT_TAG = "mlflow.parentRunId"
"""The run under which MLflow shows this one."""

# Set on a version of a registered model, beside JOB_TAG.
BACKBONE_TAG = "vicreg.backbone"
SCORE_PREFIX = "score."
"""Followed by a metric."""

# Set by the workers; the dispatcher marks the open trials of an ended sweep as cancelled.
PROGRESS_TAG = "vicreg.progress"
"""How far the run is: a ``Progress`` as JSON."""
CHECKPOINTS_TAG = "vicreg.checkpoints"
"""Of a pretraining: which checkpoints there are, a ``CheckpointReport`` as JSON."""
TIMELINE_TAG = "vicreg.timeline"
"""When the latest attempt reached what: an ``AttemptTimeline`` as JSON."""
TRIAL_TAG = "vicreg.trial"
"""Of the run of a trial's first seed: a ``Trial`` as JSON."""
TRIAL_NUMBER_TAG = "vicreg.trial_number"
"""Of the run of each of a trial's seeds: the trial's number. The seed is the run's parameter
``training.seed``."""
EXTENDS_TAG = "vicreg.extends"
"""Of a sweep: the run of the one that it extends, whose trials are its own too."""
IMPORTANCE_TAG = "vicreg.importance"
"""Of a sweep: how much each parameter matters, an ``Importance`` as JSON."""
ENCODER_TAG = "vicreg.encoder"
"""The version of a registered model that the latest attempt evaluates or starts from, such as
``models:/NAME/1``: what an alias stood for."""
ATTEMPT_TAG = "vicreg.attempt"
VERSION_TAG = "vicreg.version"
TORCH_TAG = "vicreg.torch"
RAY_TAG = "vicreg.ray"
PYTHON_TAG = "vicreg.python"
HOST_TAG = "vicreg.host"
GPU_TAG = "vicreg.gpu"
COMMIT_TAG = "mlflow.source.git.commit"
