"""Registers the encoder of a pretraining in MLflow's model registry, if its scores are enough."""

from __future__ import annotations

import enum
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from vicreg_platform.contract.tags import BACKBONE_TAG, JOB_TAG, SCORE_PREFIX
from vicreg_platform.errors import GateNotMet, IllegalTransition, InvalidRequest
from vicreg_platform.jobs.schemas import JobSchema, Registered, Score
from vicreg_platform.jobs.states import JobState
from vicreg_platform.specs.base import FieldFault
from vicreg_platform.specs.protocol import PROTOCOLS
from vicreg_platform.tracking import Tracking

SCORES = (*(f"{name}/" for name in PROTOCOLS), "representation/")
"""What the metrics begin with that say how good an encoder is."""


class Comparison(enum.StrEnum):
    """How a score is compared with a bound."""

    AT_LEAST = ">="
    ABOVE = ">"
    AT_MOST = "<="
    BELOW = "<"

    def holds(self, value: float, bound: float) -> bool:
        """Whether ``value`` is on the right side of ``bound``."""
        return _COMPARE[self](value, bound)


_COMPARE: dict[Comparison, Callable[[float, float], bool]] = {
    Comparison.AT_LEAST: operator.ge,
    Comparison.ABOVE: operator.gt,
    Comparison.AT_MOST: operator.le,
    Comparison.BELOW: operator.lt,
}


def _not_reserved(alias: str) -> str:
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError(f"MLflow reserves '{alias}': choose another alias")
    return alias


Bound = Annotated[float, Field(allow_inf_nan=False)]
Gate = dict[
    Annotated[str, Field(min_length=1, max_length=200)],
    Annotated[dict[Comparison, Bound], Field(min_length=1)],
]


class Registration(BaseModel):
    """Under which name to register an encoder, and what its scores must be."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=200)
    """The registered model; it is created if it does not exist."""
    alias: (
        Annotated[
            str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=200), AfterValidator(_not_reserved)
        ]
        | None
    ) = None
    """Moved to the version, such as `candidate`: `models:/NAME@candidate` is then this encoder."""
    require: Gate = Field(default={}, max_length=100)
    """What metrics must be: `{"knn/top1": {">=": 0.6}}`. One without a value is not met."""


def scores_of(job: JobSchema, evaluations: Iterable[JobSchema]) -> dict[str, Score]:
    """The latest value of each metric of an encoder.

    What an evaluation has measured counts before what the training has measured itself, and a
    later evaluation before an earlier one.

    Args:
        job: the pretraining.
        evaluations: that have succeeded, newest first.
    """
    scores = {name: Score(value=value, job=job.id) for name, value in job.summary.items()}
    for evaluation in reversed(list(evaluations)):
        if measures_the_end(evaluation):
            values = evaluation.summary.items()
            scores |= {name: Score(value=value, job=evaluation.id) for name, value in values}
    return scores


def measures_the_end(evaluation: JobSchema) -> bool:
    """Whether it is of the encoder at the end of a training, not of one kept after an epoch."""
    return evaluation.spec.get("encoder", {}).get("epoch") is None


def unmet(scores: Mapping[str, Score], gate: Gate) -> list[FieldFault]:
    """The requirements that scores do not meet, each with the value and its job."""
    faults = []
    for metric, bounds in gate.items():
        score = scores.get(metric)
        for comparison, bound in bounds.items():
            if score is None:
                text = f"has no value, and must be {comparison} {bound:g}"
            elif not comparison.holds(score.value, bound):
                text = f"is {score.value:g} (job {score.job}), and must be {comparison} {bound:g}"
            else:
                continue
            faults.append(FieldFault(f"require.{metric}", f"{metric} {text}"))
    return faults


def register(
    tracking: Tracking,
    mlflow_public_url: str,
    job: JobSchema,
    evaluations: Sequence[JobSchema],
    wanted: Registration,
) -> Registered:
    """Register a pretraining's encoder; the same version at every call, with its newest scores.

    Args:
        tracking: MLflow.
        mlflow_public_url: what the URL of the version starts with.
        job: the pretraining.
        evaluations: of its encoder, that have succeeded, newest first.
        wanted: the name, and what the scores must be.

    Raises:
        InvalidRequest: the job is not a pretraining.
        IllegalTransition: it has not succeeded.
        GateNotMet: with every requirement that is not met.
        NotFound: its run has no encoder.
        TrackingUnavailable: MLflow is unreachable.
    """
    if job.kind != "pretrain":
        raise InvalidRequest(f"job {job.id} is not a pretraining: it has no encoder to register")
    if job.state is not JobState.SUCCEEDED or job.mlflow is None:
        raise IllegalTransition(
            f"job {job.id} is {job.state.value}: only a pretraining that has succeeded has an "
            "encoder to register"
        )
    measured = scores_of(job, evaluations)
    faults = unmet(measured, wanted.require)
    if faults:
        raise GateNotMet(faults)
    scores = {
        name: score
        for name, score in sorted(measured.items())
        if name.startswith(SCORES) or name in wanted.require
    }
    tags = {JOB_TAG: job.id, BACKBONE_TAG: str(job.spec.get("backbone", {}).get("name"))}
    tags |= {f"{SCORE_PREFIX}{name}": repr(score.value) for name, score in scores.items()}
    version = tracking.register(job.mlflow.run_id, wanted.model, tags, wanted.alias)
    return Registered(
        name=wanted.model,
        version=version,
        alias=wanted.alias,
        scores=scores,
        url=f"{mlflow_public_url}/#/models/{wanted.model}/versions/{version}",
    )


def read_requirement(text: str) -> dict[str, Any]:
    """The part of ``Registration.require`` that a text such as ``knn/top1>=0.6`` says.

    Raises:
        InvalidRequest: it says none.
    """
    found = re.fullmatch(r"\s*([^<>=]+?)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
    try:
        if found is None:
            raise ValueError
        metric, comparison, bound = found.groups()
        return {metric: {comparison: float(bound)}}
    except ValueError:
        raise InvalidRequest(f"'{text}' must be METRIC>=NUMBER, or with >, <= or <") from None
