"""The contract that all parts share: what a user may ask for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from vicreg_platform.errors import InvalidSpec
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
    DigitsData,
    EvaluationData,
    ImageFolderData,
    TorchvisionData,
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
)
from vicreg_platform.specs.optimizer import AdamW, Lars, Optimizer, Sgd
from vicreg_platform.specs.pretrain import PretrainSpec
from vicreg_platform.specs.protocol import (
    ExportProtocol,
    FinetuneProtocol,
    KnnProtocol,
    LinearProtocol,
    Protocol,
)

Spec = Annotated[PretrainSpec | EvaluateSpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[PretrainSpec | EvaluateSpec] = TypeAdapter(Spec)


def parse_spec(data: Any) -> PretrainSpec | EvaluateSpec:
    """The typed, fully resolved spec for what a user wrote.

    Raises:
        InvalidSpec: with every fault, field by field.
    """
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        faults = field_faults(PretrainSpec | EvaluateSpec, data, error)
    # The fields that are right are held against each other even where other fields are wrong.
    rest = without_faulty(data, faults)
    if any(fault.field.startswith("data") for fault in faults):
        rest["data"] = {"source": "digits"}
    try:
        _ADAPTER.validate_python(rest)
    except ValidationError as error:
        faults += [
            fault
            for fault in cross_faults(error, {fault.field for fault in faults})
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
    "AdamW",
    "Augmentation",
    "Backbone",
    "BarlowTwins",
    "Branches",
    "Data",
    "DigitsData",
    "Encoder",
    "EvaluateSpec",
    "EvaluationData",
    "Expander",
    "ExportProtocol",
    "FieldFault",
    "FinetuneProtocol",
    "ImageFolderData",
    "JobEncoder",
    "KnnProtocol",
    "Lars",
    "LinearProtocol",
    "Method",
    "ModelEncoder",
    "Optimizer",
    "PathEncoder",
    "Predictor",
    "PretrainSpec",
    "Protocol",
    "RunEncoder",
    "Sgd",
    "SimCLR",
    "SimSiam",
    "Spec",
    "TorchvisionData",
    "UntrainedEncoder",
    "VICReg",
    "parse_spec",
    "spec_schema",
]
