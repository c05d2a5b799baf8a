"""The evaluation spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, Tag, model_validator

from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.backbone import Backbone, image_faults
from vicreg_platform.specs.base import CrossFieldError, Name, SpecModel, by_field
from vicreg_platform.specs.data import Data, EvaluationData, RelativePath
from vicreg_platform.specs.job import Identifier, JobSpec
from vicreg_platform.specs.protocol import Protocol


class JobEncoder(SpecModel):
    """The encoder of a pretraining job; the evaluation waits until that job has succeeded."""

    job: Identifier
    """The id of the pretraining job."""


class RunEncoder(SpecModel):
    """The encoder logged to an MLflow run."""

    run: Identifier
    """The id of the run."""


class ModelEncoder(SpecModel):
    """An encoder in MLflow's model registry."""

    model: Annotated[str, StringConstraints(pattern=r"^models:/[^/\s]+/[^/\s]+$")]
    """Such as ``models:/vicreg-resnet18/1``."""


class PathEncoder(SpecModel):
    """Backbone weights in a file: ``.safetensors``, or a ``.pth`` loaded with ``weights_only``."""

    path: RelativePath
    """Relative to the data root."""
    backbone: Backbone
    """The architecture that the weights belong to."""


class UntrainedEncoder(SpecModel):
    """Random weights: the baseline that a pretrained encoder is compared with."""

    untrained: Backbone
    """The architecture."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the weights."""


Encoder = Annotated[
    Annotated[JobEncoder, Tag("job")]
    | Annotated[RunEncoder, Tag("run")]
    | Annotated[ModelEncoder, Tag("model")]
    | Annotated[PathEncoder, Tag("path")]
    | Annotated[UntrainedEncoder, Tag("untrained")],
    by_field("encoder", ("job", "run", "model", "path", "untrained")),
]


class EvaluateResources(SpecModel):
    """The resources of the evaluation's one process."""

    cpus: int = Field(default=1, ge=1, le=256)
    gpus: Literal[0, 1] = 0


class EvaluateSpec(JobSpec):
    """An evaluation job."""

    kind: Literal["evaluate"]
    name: Name
    """Default: the protocol."""
    encoder: Encoder
    protocol: Protocol
    data: EvaluationData
    resources: EvaluateResources = EvaluateResources()

    def needs(self) -> Needs:
        """See ``JobSpec.needs``."""
        return Needs(Bundle(self.resources.cpus, self.resources.gpus), count=1)

    def datasets(self) -> dict[str, Data]:
        """See ``JobSpec.datasets``."""
        return {"data.train": self.data.train, "data.test": self.data.test}

    @property
    def encoder_job(self) -> str | None:
        """See ``JobSpec.encoder_job``."""
        return self.encoder.job if isinstance(self.encoder, JobEncoder) else None

    @property
    def encoder_path(self) -> str | None:
        """See ``JobSpec.encoder_path``."""
        return self.encoder.path if isinstance(self.encoder, PathEncoder) else None

    @model_validator(mode="after")
    def _images_fit_encoder(self) -> EvaluateSpec:
        if isinstance(self.encoder, UntrainedEncoder):
            field, backbone = "encoder.untrained", self.encoder.untrained
        elif isinstance(self.encoder, PathEncoder):
            field, backbone = "encoder.backbone", self.encoder.backbone
        else:
            return self
        size = self.data.train.image_size
        faults = image_faults(field, backbone, size, "data.train.image_size")
        if backbone.is_transformer and self.data.test.image_size != size:
            fields = ("data.test.image_size", "data.train.image_size")
            faults.append((fields, f"{backbone.name} takes images of one size: here {size}"))
        if faults:
            raise CrossFieldError(faults)
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("protocol"), dict):
            data = data | {"name": str(data["protocol"].get("name", "evaluate"))}
        return data
