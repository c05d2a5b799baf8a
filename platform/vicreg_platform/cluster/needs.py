"""What a spec needs of the cluster, and how its driver is started."""

from __future__ import annotations

from vicreg_platform.cluster import Bundle, Capacity, Needs, Submission
from vicreg_platform.contract.assignment import Assignment
from vicreg_platform.specs import AnySpec, EvaluateSpec, Resources, SweepSpec

NOTHING = Bundle(cpus=0, gpus=0)


def needs_of(spec: AnySpec, capacity: Capacity | None = None) -> Needs:
    """The bundles that a job occupies while it runs.

    Args:
        spec: the job's.
        capacity: the cluster's; a sweep asks for no more trials at once than it can ever hold.
    """
    if isinstance(spec, EvaluateSpec):
        return Needs(Bundle(spec.resources.cpus, spec.resources.gpus), count=1)
    if isinstance(spec, SweepSpec):
        trial = _needs_of_trial(spec)
        return Needs(trial.bundle, trial.count * trials_at_once(spec, capacity))
    return _needs_of_workers(spec.resources)


def trials_at_once(spec: SweepSpec, capacity: Capacity | None) -> int:
    """How many trials of a sweep run at once: at least one, even where there is no room for it."""
    wanted = min(spec.concurrency, spec.search.trials)
    if capacity is None:
        return wanted
    trial = _needs_of_trial(spec)
    return max(1, min(wanted, capacity.bundles(trial.bundle) // trial.count))


def _needs_of_trial(spec: SweepSpec) -> Needs:
    return _needs_of_workers(spec.trial_resources())


def _needs_of_workers(resources: Resources) -> Needs:
    each = Bundle(resources.cpus_per_worker, resources.gpus_per_worker)
    return Needs(each, count=resources.workers)


def submission_of(assignment: Assignment, submission_id: str) -> Submission:
    """The driver of an attempt.

    A job of one process trains in its driver, which then holds the resources; the driver of
    several workers, or of a sweep's trials, only watches them, and holds none.
    """
    spec = assignment.spec
    needs = needs_of(spec)
    alone = needs.count == 1 and not isinstance(spec, SweepSpec)
    return Submission(
        id=submission_id,
        arguments=("python", "-m", "vicreg_workers.main", assignment.model_dump_json()),
        driver=needs.bundle if alone else NOTHING,
        metadata={"job_id": assignment.job_id, "name": assignment.spec.name},
    )
