"""What a spec needs of the cluster, and how its driver is started."""

from __future__ import annotations

from vicreg_platform.assignment import Assignment
from vicreg_platform.cluster import Bundle, Needs, Submission
from vicreg_platform.specs import EvaluateSpec, PretrainSpec

NOTHING = Bundle(cpus=0, gpus=0)


def needs_of(spec: PretrainSpec | EvaluateSpec) -> Needs:
    """The bundles that a job occupies while it runs."""
    if isinstance(spec, EvaluateSpec):
        return Needs(Bundle(spec.resources.cpus, spec.resources.gpus), count=1)
    each = Bundle(spec.resources.cpus_per_worker, spec.resources.gpus_per_worker)
    return Needs(each, count=spec.resources.workers)


def submission_of(assignment: Assignment, submission_id: str) -> Submission:
    """The driver of an attempt.

    A job of one process trains in its driver, which then holds the resources; the driver of
    several workers only watches them, and holds none.
    """
    needs = needs_of(assignment.spec)
    return Submission(
        id=submission_id,
        arguments=("python", "-m", "vicreg_workers.main", assignment.model_dump_json()),
        driver=needs.bundle if needs.count == 1 else NOTHING,
        metadata={"job_id": assignment.job_id, "name": assignment.spec.name},
    )
