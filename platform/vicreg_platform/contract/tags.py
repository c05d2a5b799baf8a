"""The tags by which workers and the control plane speak through an MLflow run."""

JOB_TAG = "vicreg.job_id"
"""Set by the dispatcher: whose run it is."""
PROGRESS_TAG = "vicreg.progress"
"""Set by the workers: how far they are, a JSON object."""
