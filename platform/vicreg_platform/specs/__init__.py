"""Job specs: what a user may ask for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from vicreg_platform.errors import InvalidSpec
from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.augmentation import Augmentation
from vicreg_platform.specs.backbone import Backbone
from vicreg_platform.specs.base import (
    FieldFault,
    cross_faults,
    field_faults,
    without_faulty,
)
from vicreg_platform.specs.data import (
    Data,
    DetectionData,
    DigitsData,
    EvaluationData,
    HuggingFaceData,
    ImageFolderData,
    SegmentationData,
    TorchvisionData,
    WebDatasetData,
)
from vicreg_platform.specs.evaluate import (
    Encoder,
    EvaluateSpec,
    JobEncoder,
    ModelEncoder,
    PathEncoder,
    RunEncoder,
    UntrainedEncoder,
)
from vicreg_platform.specs.job import JobSpec
from vicreg_platform.specs.method import (
    BYOL,
    BarlowTwins,
    Branches,
    Expander,
    Method,
    Predictor,
    SimCLR,
    SimSiam,
    VICReg,
    VICRegL,
    VICRegTerms,
)
from vicreg_platform.specs.optimizer import AdamW, Lars, Optimizer, Sgd
from vicreg_platform.specs.pretrain import Extends, PretrainSpec, Resources, WorkerRange
from vicreg_platform.specs.protocol import (
    DetectionProtocol,
    FeaturesProtocol,
    FewShotProtocol,
    FinetuneProtocol,
    KnnProtocol,
    LinearProtocol,
    Protocol,
    RetrievalProtocol,
    SegmentationProtocol,
    SvmProtocol,
)
from vicreg_platform.specs.space import (
    Choice,
    Distribution,
    Grid,
    LogUniform,
    QUniform,
    RandInt,
    Uniform,
)
from vicreg_platform.specs.sweep import (
    Asha,
    ExtendsSweep,
    Fifo,
    Median,
    Objective,
    Scheduler,
    Search,
    SweepSpec,
)

AnySpec = PretrainSpec | EvaluateSpec | SweepSpec
Spec = Annotated[AnySpec, Field(discriminator="kind")]
KINDS = ("pretrain", "evaluate", "sweep")
_ADAPTER: TypeAdapter[AnySpec] = TypeAdapter(Spec)


def parse_spec(data: Any) -> AnySpec:
    """The typed, fully resolved spec for what a user wrote.

    Raises:
        InvalidSpec: with every fault, field by field.
    """
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        faults = field_faults(AnySpec, data, error)
    # Valid fields are checked against each other even if other fields are faulty.
    rest = without_faulty(data, faults)
    if any(fault.field.startswith("data") for fault in faults):
        rest["data"] = {"source": "digits"}
    try:
        _ADAPTER.validate_python(rest)
    except ValidationError as error:
        faults += [
            fault
            for fault in cross_faults(AnySpec, rest, error, {fault.field for fault in faults})
            if fault not in faults
        ]
    raise InvalidSpec(faults)


def spec_schema() -> dict[str, Any]:
    """The JSON Schema of every spec."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "VICReg platform job spec",
    } | _ADAPTER.json_schema()


__all__ = [
    "BYOL",
    "KINDS",
    "AdamW",
    "AnySpec",
    "Asha",
    "Augmentation",
    "Backbone",
    "BarlowTwins",
    "Branches",
    "Bundle",
    "Choice",
    "Data",
    "DetectionData",
    "DetectionProtocol",
    "DigitsData",
    "Distribution",
    "Encoder",
    "EvaluateSpec",
    "EvaluationData",
    "Expander",
    "Extends",
    "ExtendsSweep",
    "FeaturesProtocol",
    "FewShotProtocol",
    "FieldFault",
    "Fifo",
    "FinetuneProtocol",
    "Grid",
    "HuggingFaceData",
    "ImageFolderData",
    "JobEncoder",
    "JobSpec",
    "KnnProtocol",
    "Lars",
    "LinearProtocol",
    "LogUniform",
    "Median",
    "Method",
    "ModelEncoder",
    "Needs",
    "Objective",
    "Optimizer",
    "PathEncoder",
    "Predictor",
    "PretrainSpec",
    "Protocol",
    "QUniform",
    "RandInt",
    "Resources",
    "RetrievalProtocol",
    "RunEncoder",
    "Scheduler",
    "Search",
    "SegmentationData",
    "SegmentationProtocol",
    "Sgd",
    "SimCLR",
    "SimSiam",
    "Spec",
    "SvmProtocol",
    "SweepSpec",
    "TorchvisionData",
    "Uniform",
    "UntrainedEncoder",
    "VICReg",
    "VICRegL",
    "VICRegTerms",
    "WebDatasetData",
    "WorkerRange",
    "parse_spec",
    "spec_schema",
]
