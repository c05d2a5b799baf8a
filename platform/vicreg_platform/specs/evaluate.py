"""The evaluation spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.backbone import Backbone, image_faults
from vicreg_platform.specs.base import CrossFieldError, Name, SpecModel, by_field
from vicreg_platform.specs.data import (
    Data,
    DetectionData,
    EvaluationData,
    RelativePath,
    SegmentationData,
)
from vicreg_platform.specs.job import MOST_WORKERS, Identifier, JobSpec, ModelAddress
from vicreg_platform.specs.protocol import (
    DetectionProtocol,
    Protocol,
    SegmentationProtocol,
    draws,
    trains_network,
)


class JobEncoder(SpecModel):
    """The encoder of a pretraining job; the evaluation waits until that job has succeeded."""

    job: Identifier
    """The id of the pretraining job."""
    epoch: int | None = Field(default=None, ge=1, le=100_000)
    """The encoder that the job has kept after so many epochs (``evaluations[].at_epochs``), which
    is evaluated while training continues. Default: the encoder at its end."""


class RunEncoder(SpecModel):
    """The encoder logged to an MLflow run."""

    run: Identifier
    """The id of the run."""


class ModelEncoder(SpecModel):
    """An encoder in MLflow's model registry."""

    model: ModelAddress
    """Such as ``models:/vicreg-resnet18/1`` or, by an alias, ``models:/vicreg-resnet18@candidate``:
    the version that has the alias when the job runs is the tag ``vicreg.encoder`` of its run."""


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
    """Seed of the random weights."""


Encoder = Annotated[
    Annotated[JobEncoder, Tag("job")]
    | Annotated[RunEncoder, Tag("run")]
    | Annotated[ModelEncoder, Tag("model")]
    | Annotated[PathEncoder, Tag("path")]
    | Annotated[UntrainedEncoder, Tag("untrained")],
    by_field("encoder", ("job", "run", "model", "path", "untrained")),
]


class EvaluateResources(SpecModel):
    """The workers of the evaluation, and the resources of each."""

    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    """Processes that compute the representations, each those of an equal part of the images; the
    first one then measures them. Protocols that train a network have one: ``linear`` with
    ``augment``, ``finetune``, ``segmentation`` and ``detection``."""
    cpus: int = Field(default=1, ge=1, le=256)
    """CPUs of each worker. With one, it reads the images itself; each further one is a process that
    reads them."""
    gpus: Literal[0, 1] = 0
    """GPUs of each worker. With 0, it computes on its CPUs."""


ANNOTATED: dict[type[SpecModel], tuple[type[SpecModel], str, str]] = {
    SegmentationData: (SegmentationProtocol, "segmentation", "images with masks"),
    DetectionData: (DetectionProtocol, "detection", "images with boxes"),
}
"""Images that have more than labels: the protocol that needs them, and alone can use them, its
name, and what they are."""


def needs_annotated(protocol: Protocol | None) -> str | None:
    """What images a protocol needs that has no use for others; None if any with labels will do."""
    return next((what for kind, _, what in ANNOTATED.values() if isinstance(protocol, kind)), None)


def annotated_only_for(data: Data) -> str | None:
    """The protocol that alone can use images; None if they are not of one protocol."""
    return next((name for kind, (_, name, _) in ANNOTATED.items() if isinstance(data, kind)), None)


def source_faults(
    protocol: Protocol, data: EvaluationData, above: str = ""
) -> list[tuple[tuple[str, ...], str]]:
    """Faults: images with masks or boxes that the protocol cannot use, or without those it needs.

    Args:
        protocol: how the encoder is evaluated.
        data: on which images.
        above: the path of both in the spec, with a dot at its end.
    """
    needed = needs_annotated(protocol)
    faults: list[tuple[tuple[str, ...], str]] = []
    for part, images in (("train", data.train), ("test", data.test)):
        only_for = annotated_only_for(images)
        if only_for == (protocol.name if needed else None):
            continue
        text = (
            f"protocol {protocol.name} needs {needed}: use {protocol.name}_folder"
            if needed
            else f"{images.source} is for protocol {only_for}, not {protocol.name}"
        )
        faults.append(((f"{above}data.{part}.source", f"{above}protocol.name"), text))
    return faults


def detection_faults(
    protocol: Protocol | None,
    data: EvaluationData | None,
    backbone: tuple[str, Backbone] | None,
    above: str = "",
) -> list[tuple[tuple[str, ...], str]]:
    """Why objects cannot be detected.

    Args:
        protocol: how the encoder is evaluated.
        data: on which images.
        backbone: the path of the encoder's architecture in the spec and what it is, if it is known.
        above: the path of protocol and data in the spec, with a dot at its end.
    """
    if not isinstance(protocol, DetectionProtocol):
        return []
    faults: list[tuple[tuple[str, ...], str]] = []
    if backbone is not None and not backbone[1].is_residual:
        field, network = backbone
        text = (
            f"protocol detection needs a residual network of the platform or torchvision, such as "
            f"resnet50, not {network.name}"
        )
        faults.append(((f"{field}.name", f"{above}protocol.name"), text))
    parts = (
        () if data is None or not protocol.masks else (("train", data.train), ("test", data.test))
    )
    faults += [
        (
            (f"{above}protocol.masks", f"{above}data.{part}.layout"),
            "must be false for layout voc, whose objects have boxes alone: masks need coco",
        )
        for part, images in parts
        if isinstance(images, DetectionData) and images.layout != "coco"
    ][:1]
    return faults


class EvaluateSpec(JobSpec):
    """An evaluation job."""

    kind: Literal["evaluate"]
    name: Name
    """Default: the protocol."""
    encoder: Encoder
    protocol: Protocol
    data: EvaluationData
    seeds: int = Field(default=1, ge=1, le=100)
    """How often the protocol is run, with its ``seed`` and those that follow. Each metric is then
    the mean, and ``<metric>_std`` the standard deviation of a run."""
    curve: Name | None = None
    """With an encoder of a job, the metrics become points of that job's curves
    ``evaluations/<curve>/…``, at the step of the encoder. Default: they do not."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """In which the network computes; what is made of its representations is in float32. On a GPU,
    fp32 uses TF32 for convolutions, and bf16 is faster."""
    resources: EvaluateResources = EvaluateResources()
    preemptible: bool = False
    """Whether it may be stopped for a job of higher priority. It starts again from the
    beginning."""

    def needs(self) -> Needs:
        """See ``JobSpec.needs``."""
        each = Bundle(self.resources.cpus, self.resources.gpus)
        return Needs(each, count=self.resources.workers)

    def datasets(self) -> dict[str, Data]:
        """See ``JobSpec.datasets``."""
        return {"data.train": self.data.train, "data.test": self.data.test}

    @property
    def encoder_job(self) -> str | None:
        """See ``JobSpec.encoder_job``."""
        return self.encoder.job if isinstance(self.encoder, JobEncoder) else None

    @property
    def encoder_epoch(self) -> int | None:
        """See ``JobSpec.encoder_epoch``."""
        return self.encoder.epoch if isinstance(self.encoder, JobEncoder) else None

    @property
    def parent_job(self) -> str | None:
        """See ``JobSpec.parent_job``."""
        return self.encoder_job

    @property
    def encoder_path(self) -> str | None:
        """See ``JobSpec.encoder_path``."""
        return self.encoder.path if isinstance(self.encoder, PathEncoder) else None

    @model_validator(mode="after")
    def _fits_protocol(self) -> EvaluateSpec:
        faults = source_faults(self.protocol, self.data)
        faults += detection_faults(self.protocol, self.data, self._backbone())
        if self.seeds > 1 and not draws(self.protocol):
            text = f"protocol {self.protocol.name} draws nothing at random: use 1"
            faults.append((("seeds", "protocol.name"), text))
        if self.resources.workers > 1 and trains_network(self.protocol):
            name = self.protocol.name + (" with augment" if self.protocol.name == "linear" else "")
            text = f"protocol {name} trains in one process: use 1; knn, linear without augment, "
            text += "svm, few_shot, retrieval and features take several"
            faults.append((("resources.workers", "protocol.name"), text))
        if self.curve is not None and self.encoder_job is None:
            faults.append((("curve", "encoder"), "needs an encoder of a job"))
        if faults:
            raise CrossFieldError(faults)
        return self

    @model_validator(mode="after")
    def _images_fit_encoder(self) -> EvaluateSpec:
        named = self._backbone()
        if named is None:
            return self
        field, backbone = named
        size = self.data.train.image_size
        faults = image_faults(field, backbone, size, "data.train.image_size")
        if backbone.is_transformer and self.data.test.image_size != size:
            fields = ("data.test.image_size", "data.train.image_size")
            faults.append((fields, f"{backbone.name} takes images of one size: here {size}"))
        if faults:
            raise CrossFieldError(faults)
        return self

    def _backbone(self) -> tuple[str, Backbone] | None:
        """The path and the architecture of the encoder, if the spec names it."""
        if isinstance(self.encoder, UntrainedEncoder):
            return "encoder.untrained", self.encoder.untrained
        if isinstance(self.encoder, PathEncoder):
            return "encoder.backbone", self.encoder.backbone
        return None

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "name" not in data and isinstance(data.get("protocol"), dict):
            data = data | {"name": str(data["protocol"].get("name", "evaluate"))}
        return data
