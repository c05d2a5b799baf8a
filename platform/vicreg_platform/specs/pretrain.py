"""The pretraining spec."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.augmentation import Augmentation
from vicreg_platform.specs.backbone import Backbone, image_faults
from vicreg_platform.specs.base import CrossFieldError, Name, SpecModel
from vicreg_platform.specs.data import Data, EvaluationData
from vicreg_platform.specs.evaluate import EvaluateResources, EvaluateSpec, JobEncoder
from vicreg_platform.specs.job import JobSpec
from vicreg_platform.specs.method import (
    Branches,
    Expander,
    Method,
    VICReg,
    method_defaults,
)
from vicreg_platform.specs.optimizer import Lars, Optimizer
from vicreg_platform.specs.protocol import Protocol


class Training(SpecModel):
    """How long to train, on how many images at once, and in which precision."""

    epochs: int = Field(default=100, ge=1, le=100_000)
    """Passes over the training images."""
    batch_size: int = Field(default=256, ge=2, le=1_048_576)
    """Images per step, over all workers."""
    warmup_epochs: int = Field(ge=0, le=100_000)
    """Default: 10, or half the epochs if there are fewer than 20."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Default: bf16 on GPUs, fp32 on CPUs. With fp32, a GPU's convolutions use TF32, and its matrix
    products do not. The loss is computed in float32 always."""
    compile: bool = False
    """Compile the network with ``torch.compile``. If any worker cannot, the run continues without,
    with a warning. Needs a C compiler on every node."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the initial weights, and of the order, crops and colours of the images."""


class Resources(SpecModel):
    """The DDP workers and the resources of each."""

    workers: int = Field(default=1, ge=1, le=1024)
    """DDP processes, each with an equal share of the batch."""
    cpus_per_worker: int = Field(default=1, ge=1, le=256)
    """With one, the training thread reads the images itself; each further one is a process that
    reads them."""
    gpus_per_worker: Literal[0, 1] = 0
    """With 0, the worker trains on its CPUs."""

    def needs(self) -> Needs:
        """What the workers occupy."""
        return Needs(Bundle(self.cpus_per_worker, self.gpus_per_worker), count=self.workers)


class Checkpoint(SpecModel):
    """When the state of a run is saved. A retry resumes from the newest copy."""

    every_epochs: int = Field(default=1, ge=1, le=100_000)
    """Epochs between two checkpoints; the last epoch always has one."""
    keep: int = Field(default=2, ge=1, le=1000)
    """How many of the newest checkpoints are kept."""


class Watch(SpecModel):
    """What is measured of the representation during training, and when the run is stopped."""

    collapse_std: float = Field(ge=0.0, le=1.0)
    """A run is stopped as diverged when the mean standard deviation of the embedding's dimensions
    stays below this; 0 never stops. For all methods but vicreg, whose losses ignore the scale,
    embeddings are first scaled to a mean square of 1. Default: 0.01; 0 for vicreg without its
    variance term, which is expected to collapse."""
    collapse_steps: int = Field(default=200, ge=1, le=1_000_000)
    """For how many steps it must stay below."""
    knn_every_epochs: int | None = Field(default=None, ge=0, le=100_000)
    """Epochs between two kNN measurements on images of the training set; the last epoch is always
    measured, and 0 never measures. Default: every k epochs, chosen so that 50 × workers images are
    trained per image measured (at most 4,000 are): every 4th epoch of 50,000 images, every epoch
    of ImageNet, every 50th of 4,000 images or fewer; at least 5 times in a training."""


class Evaluation(SpecModel):
    """An evaluation of the encoder, which starts when the pretraining has succeeded."""

    protocol: Protocol
    """How the encoder is evaluated."""
    data: EvaluationData | None = None
    """Default: the training images, and the test split beside them: for a folder ``…/train``, its
    sibling ``…/test``."""


class PretrainSpec(JobSpec):
    """A pretraining job."""

    kind: Literal["pretrain"]
    name: Name
    """Default: the method and the backbone."""
    method: Method = VICReg()
    backbone: Backbone = Backbone()
    expander: Expander
    branches: Branches
    data: Data
    augmentation: Augmentation = Field(default_factory=lambda: Augmentation.model_validate({}))
    optimizer: Optimizer = Field(default_factory=lambda: Lars.model_validate({}))
    training: Training
    watch: Watch
    resources: Resources = Resources()
    checkpoint: Checkpoint = Checkpoint()
    evaluations: tuple[Evaluation, ...] = Field(default=(), max_length=32)

    @model_validator(mode="before")
    @classmethod
    def _fill_dependent_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        training = data.setdefault("training", {})
        resources = data.get("resources")
        if isinstance(training, dict):
            gpus = _given(resources, "gpus_per_worker", 0.0)
            epochs = int(_given(training, "epochs", 100.0))
            data["training"] = {
                "precision": "bf16" if gpus else "fp32",
                "warmup_epochs": epochs // 2 if epochs < 20 else 10,
            } | training
        method = _text(data.get("method"), "name", "vicreg")
        for section, defaults in method_defaults(method).items():
            given = data.setdefault(section, {})
            if isinstance(given, dict):
                data[section] = defaults | given
        watch = data.setdefault("watch", {})
        if isinstance(watch, dict):
            bare = method == "vicreg" and _given(data.get("method"), "variance", 25.0) == 0
            data["watch"] = {"collapse_std": 0.0 if bare else 0.01} | watch
        data.setdefault("name", f"{method}-{_text(data.get('backbone'), 'name', 'resnet18')}")
        return data

    @model_validator(mode="after")
    def _parts_fit_together(self) -> PretrainSpec:
        batch, workers = self.training.batch_size, self.resources.workers
        faults: list[tuple[tuple[str, ...], str]] = []
        if batch % workers:
            faults.append(
                (
                    ("training.batch_size", "resources.workers"),
                    f"{batch} images do not divide evenly among {workers} workers",
                )
            )
        elif batch // workers < 2:
            faults.append(
                (
                    ("training.batch_size", "resources.workers"),
                    f"{batch} images leave 1 to each of {workers} workers: BatchNorm needs 2",
                )
            )
        if self.training.warmup_epochs > self.training.epochs:
            faults.append(
                (
                    ("training.warmup_epochs", "training.epochs"),
                    f"{self.training.warmup_epochs} is more than training.epochs "
                    f"({self.training.epochs})",
                )
            )
        if self.training.precision == "fp16" and not self.resources.gpus_per_worker:
            faults.append(
                (
                    ("training.precision", "resources.gpus_per_worker"),
                    "fp16 needs GPUs: set resources.gpus_per_worker to 1, or use bf16 or fp32",
                )
            )
        faults += image_faults("backbone", self.backbone, self.data.image_size)
        faults += self._branch_faults()
        faults += [
            (
                (f"evaluations[{index}].data", "data"),
                "this field is required: the test images can only be guessed if data.path ends "
                "in 'train'",
            )
            for index, evaluation in enumerate(self.evaluations)
            if evaluation.data is None and self.data.test_set() is None
        ]
        if faults:
            raise CrossFieldError(faults)
        return self

    def _branch_faults(self) -> list[tuple[tuple[str, ...], str]]:
        branches = self.branches
        if branches.weights != "separate":
            if branches.backbone is None:
                return []
            fields = ("branches.backbone", "branches.weights")
            return [(fields, "a second backbone needs branches.weights separate")]
        if branches.stop_gradient:
            fields = ("branches.stop_gradient", "branches.weights")
            return [(fields, "a second branch with its own weights would learn nothing")]
        if branches.backbone is None:
            return []
        return image_faults("branches.backbone", branches.backbone, self.data.image_size)

    def needs(self) -> Needs:
        """See ``JobSpec.needs``."""
        return self.resources.needs()

    def datasets(self) -> dict[str, Data]:
        """See ``JobSpec.datasets``."""
        sets: dict[str, Data] = {"data": self.data}
        for index, (evaluation, resolved) in enumerate(
            zip(self.evaluations, self.follow_ups("unknown"), strict=True)
        ):
            field = f"evaluations[{index}].data"
            if evaluation.data is not None:
                sets[f"{field}.train"] = evaluation.data.train
            sets[f"{field}.test"] = resolved.data.test
        return sets

    @property
    def runs_in_driver(self) -> bool:
        """See ``JobSpec.runs_in_driver``."""
        return self.resources.workers == 1

    def follow_ups(self, job_id: str) -> list[EvaluateSpec]:
        """The evaluations of the encoder that this pretraining, as job ``job_id``, will make."""
        return [self.evaluation_of(job_id, evaluation) for evaluation in self.evaluations]

    def evaluation_of(self, job_id: str, evaluation: Evaluation) -> EvaluateSpec:
        """The evaluate job of the encoder that this pretraining, as job ``job_id``, will make.

        Raises:
            ValueError: the evaluation names no data, and the test images cannot be guessed.
        """
        data = evaluation.data
        if data is None:
            test = self.data.test_set()
            if test is None:
                raise ValueError("the test images can only be guessed if data.path ends in 'train'")
            data = EvaluationData(train=self.data, test=test)
        return EvaluateSpec(
            kind="evaluate",
            name=f"{self.name}-{evaluation.protocol.name}"[:200],
            experiment=self.experiment,
            labels=self.labels,
            priority=self.priority,
            encoder=JobEncoder(job=job_id),
            protocol=evaluation.protocol,
            data=data,
            resources=EvaluateResources(
                cpus=self.resources.cpus_per_worker, gpus=self.resources.gpus_per_worker
            ),
            retry=self.retry,
        )


def _given(section: object, key: str, default: float) -> float:
    """A number of a section, as its field will read it (``"5"`` is 5); the default if it cannot."""
    value = section.get(key, default) if isinstance(section, dict) else default
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default


def _text(section: object, key: str, default: object) -> object:
    return section.get(key, default) if isinstance(section, dict) else default
