"""The pretraining spec."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from vicreg_platform.needs import Bundle, Needs
from vicreg_platform.specs.augmentation import Augmentation
from vicreg_platform.specs.backbone import Backbone, image_faults
from vicreg_platform.specs.base import CrossFieldError, FieldFault, Name, SpecModel
from vicreg_platform.specs.data import Data, EvaluationData, ImageSize
from vicreg_platform.specs.evaluate import (
    EvaluateResources,
    EvaluateSpec,
    JobEncoder,
    annotated_only_for,
    detection_faults,
    needs_annotated,
    source_faults,
)
from vicreg_platform.specs.init import Init, JobWeights, PathWeights
from vicreg_platform.specs.job import MOST_WORKERS, Identifier, JobSpec
from vicreg_platform.specs.method import (
    Branches,
    Expander,
    Method,
    VICReg,
    VICRegL,
    VICRegTerms,
    method_defaults,
)
from vicreg_platform.specs.optimizer import Lars, Optimizer
from vicreg_platform.specs.protocol import Protocol, draws
from vicreg_platform.specs.suite import SUITES, Part, SuiteName

SizeFrom = tuple[Annotated[int, Field(ge=0, lt=100_000)], ImageSize]


class Training(SpecModel):
    """How long to train, on how many images at once, and in which precision."""

    epochs: int = Field(default=100, ge=1, le=100_000)
    """Passes over the training images."""
    batch_size: int = Field(default=256, ge=2, le=1_048_576)
    """Images per step, over all workers."""
    accumulate: int = Field(default=1, ge=1, le=4096)
    """Parts in which each worker passes its images through the network. The loss is that of the
    whole batch, and memory is needed for one part alone; each part is passed twice, which takes a
    third more time. BatchNorm's statistics are those of a part."""
    sizes: tuple[SizeFrom, ...] = Field(default=(), max_length=100)
    """Sides of the views that change while training: pairs ``[epoch, size]``, such as
    ``[[0, 160], [60, 192], [90, 224]]``. From that epoch on, counted from 0, global views have
    that side, in pixels. The first epoch is 0, and the last size is ``data.image_size``: the
    encoder is measured at it from the beginning. Default: always ``data.image_size``. Not for
    vision transformers."""
    warmup_epochs: int = Field(ge=0, le=100_000)
    """Default: 10, or half the epochs if there are fewer than 20."""
    freeze_epochs: int = Field(default=0, ge=0, le=100_000)
    """For so many first epochs, the backbone stays as ``init`` has left it, with its BatchNorm
    statistics, and the expander alone is trained."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Default: bf16 on GPUs, fp32 on CPUs. With fp32, a GPU's convolutions use TF32, and its matrix
    products do not. The loss is computed in float32 always."""
    checkpoint_activations: bool = False
    """Whether each block of the backbone keeps its input alone for the backward pass, and computes
    the rest again: less memory, for one more forward pass of the backbone. Not with ``compile``,
    which decides itself what to compute again."""
    compile: bool = False
    """Compile the network with ``torch.compile``. If any worker cannot, the run continues without,
    with a warning. Needs a C compiler on every node."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the initial weights, and of the order, crops and colours of the images."""


class WorkerRange(SpecModel):
    """As many workers as there is room for, from ``min`` to ``max``.

    Only numbers that divide the batch evenly are taken. The run starts with the largest that fits,
    makes room for jobs of higher priority by shrinking, and grows when room stays free. Batch
    size, images and views stay the same.
    """

    min: int = Field(ge=1, le=MOST_WORKERS)
    """The fewest workers with which the run starts or continues."""
    max: int = Field(ge=1, le=MOST_WORKERS)
    """The most workers that it takes."""

    @model_validator(mode="after")
    def _in_order(self) -> WorkerRange:
        if self.min > self.max:
            raise CrossFieldError([(("min", "max"), f"{self.min} is more than max ({self.max})")])
        return self


def _workers_tag(value: Any) -> str:
    return "range" if isinstance(value, dict | WorkerRange) else "number"


Workers = Annotated[
    Annotated[int, Field(ge=1, le=MOST_WORKERS), Tag("number")]
    | Annotated[WorkerRange, Tag("range")],
    Discriminator(_workers_tag),
]


class Resources(SpecModel):
    """The DDP workers and the resources of each."""

    workers: Workers = 1
    """DDP processes, each with an equal share of the batch: a number, or ``{min: …, max: …}``."""
    cpus_per_worker: int = Field(default=1, ge=1, le=256)
    """With one, the training thread reads the images itself; each further one is a process that
    reads them."""
    gpus_per_worker: Literal[0, 1] = 0
    """With 0, the worker trains on its CPUs."""

    def sizes(self, training: Training) -> tuple[int, ...]:
        """The numbers of workers from the range that the batch allows, ascending.

        Empty if none does, or if the number is fixed.
        """
        if isinstance(self.workers, int):
            return ()
        return tuple(
            size
            for size in dividing(training.batch_size, training.accumulate)
            if self.workers.min <= size <= self.workers.max
        )


def dividing(batch_size: int, parts: int = 1) -> list[int]:
    """The numbers of workers that divide a batch evenly, ascending.

    Args:
        batch_size: images per step.
        parts: into which each worker divides its own; BatchNorm needs 2 images in each.
    """
    most = min(batch_size // parts // 2, MOST_WORKERS)
    return [size for size in range(1, most + 1) if batch_size % (size * parts) == 0]


class Checkpoint(SpecModel):
    """When the state of a run is saved. A retry resumes from the newest copy."""

    every_epochs: int = Field(default=1, ge=1, le=100_000)
    """Epochs between two checkpoints; the last epoch always has one."""
    min_interval_seconds: int = Field(default=0, ge=0, le=86_400)
    """At the end of an epoch, nothing is saved if the last checkpoint is younger. The last epoch
    always has one, and a stop always saves."""
    keep: int = Field(default=2, ge=1, le=1000)
    """How many of the newest checkpoints are kept."""


class Watch(SpecModel):
    """What is measured of the representation during training, and when the run is stopped."""

    collapse_std: float = Field(ge=0.0, le=1.0)
    """A run is stopped as diverged when the mean standard deviation of the embedding's dimensions
    stays below this; 0 never stops. For all methods but vicreg and vicregl, whose losses ignore
    the scale, embeddings are first scaled to a mean square of 1. Default: 0.01; 0 for vicreg
    without its variance term, which is expected to collapse."""
    collapse_steps: int = Field(default=200, ge=1, le=1_000_000)
    """For how many steps it must stay below."""
    knn_every_epochs: int | None = Field(default=None, ge=0, le=100_000)
    """Epochs between two kNN measurements on images of the training set; random weights are
    measured before the first step, the last epoch is always measured, and 0 never measures.
    Default: every k epochs, chosen so that 50 × workers images are trained per image measured (at
    most 4,000 are): every 4th epoch of 50,000 images, every epoch of ImageNet, every 50th of 4,000
    images or fewer; at least 5 times in a training."""
    probe: EvaluationData | None = None
    """Labelled images whose kNN accuracy is measured instead: up to 1,000 of ``test`` among up to
    3,000 of ``train``. Images without labels have no other. The views are of
    ``data.image_size`` unless it says otherwise."""
    patience: int = Field(default=3, ge=1, le=1000)
    """After so many kNN measurements in a row below that of the start, the training is said to be
    worse than the weights of ``init`` (``worse_than_start``), or than random ones
    (``worse_than_untrained``)."""


class Evaluation(SpecModel):
    """An evaluation of the encoder, which starts when the pretraining has succeeded."""

    protocol: Protocol | None = None
    """How the encoder is evaluated."""
    suite: SuiteName | None = None
    """Several protocols instead. ``paper``: ``linear`` and ``finetune`` with 1 and 10 % of the
    labels, with the authors' settings, and ``knn`` with 20 and 200 neighbours."""
    data: EvaluationData | None = None
    """Default: the training images, and the test split beside them: for a folder ``…/train``, its
    sibling ``…/test``."""
    seeds: int = Field(default=1, ge=1, le=100)
    """How often the protocol is run, see an evaluation's ``seeds``."""
    at_epochs: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field(
        default=(), max_length=100
    )
    """After these epochs too the encoder is kept, and evaluated while training continues. The
    results are points of the training's curves ``evaluations/<protocol>/…``."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Evaluation:
        if (self.protocol is None) == (self.suite is None):
            raise CrossFieldError([(("protocol", "suite"), "give one of the two")])
        return self

    def parts(self) -> tuple[Part, ...]:
        """What is measured."""
        if self.suite is not None:
            return SUITES[self.suite]
        assert self.protocol is not None
        return (Part(self.protocol.name, self.protocol),)


_SAME = ("method", "backbone", "expander", "branches", "data", "optimizer")
"""What a pretraining and the one that it extends have in common."""


class Extends(SpecModel):
    """The pretraining that this one continues: ``POST /v1/jobs/{id}/extend`` fills it in."""

    job: Identifier
    """It has succeeded, and trained the same network on the same data with the same batch."""
    epochs: int = Field(ge=1, le=100_000)
    """How many epochs it has trained: this one trains those that are left of its own."""
    schedule: Literal["anneal", "rewarm"]
    """``anneal``: the learning rate is that of one run over the whole length, from where that would
    be. ``rewarm``: it rises again from its final value to the peak, over
    ``training.warmup_epochs``, and then falls over the rest."""


class PretrainSpec(JobSpec):
    """A pretraining job."""

    kind: Literal["pretrain"]
    name: Name
    """Default: the method and the backbone."""
    method: Method = VICReg()
    backbone: Backbone = Backbone()
    init: Init | None = None
    """Weights that the backbone starts from. Default: random ones."""
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
    extends: Extends | None = None

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
            bare = (
                method in ("vicreg", "vicregl")
                and _given(data.get("method"), "variance", 25.0) == 0
            )
            data["watch"] = {"collapse_std": 0.0 if bare else 0.01} | watch
            if isinstance(probe := data["watch"].get("probe"), dict):
                data["watch"]["probe"] = _of_size(data.get("data"), probe)
        data.setdefault("name", f"{method}-{_text(data.get('backbone'), 'name', 'resnet18')}")
        return data

    @model_validator(mode="after")
    def _parts_fit_together(self) -> PretrainSpec:
        batch, workers = self.training.batch_size, self.resources.workers
        faults: list[tuple[tuple[str, ...], str]] = []
        if isinstance(workers, WorkerRange):
            if not self.elastic_sizes:
                allowed = ", ".join(map(str, dividing(batch, self.training.accumulate))) or "none"
                text = f"no number from {workers.min} to {workers.max} divides {batch} images "
                text += f"evenly: {allowed} would do"
                faults.append((("resources.workers", "training.batch_size"), text))
        elif batch % workers:
            faults.append(
                (
                    ("training.batch_size", "resources.workers"),
                    f"{batch} images do not divide evenly among {workers} workers",
                )
            )
        elif batch // workers % self.training.accumulate:
            faults.append(
                (
                    ("training.accumulate", "training.batch_size", "resources.workers"),
                    f"{batch // workers} images of a worker do not divide evenly into "
                    f"{self.training.accumulate} parts",
                )
            )
        elif batch // workers // self.training.accumulate < 2:
            faults.append(
                (
                    ("training.batch_size", "resources.workers"),
                    f"{batch} images leave 1 to each of {workers} workers"
                    f"{_in_parts(self.training.accumulate)}: BatchNorm needs 2",
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
        faults += self._init_faults()
        if self.training.checkpoint_activations and self.training.compile:
            fields = ("training.checkpoint_activations", "training.compile")
            faults.append((fields, "a compiled network decides itself what to compute again"))
        if self.extends is not None:
            faults += self._extension_faults(self.extends)
        if self.training.precision == "fp16" and not self.resources.gpus_per_worker:
            faults.append(
                (
                    ("training.precision", "resources.gpus_per_worker"),
                    "fp16 needs GPUs: set resources.gpus_per_worker to 1, or use bf16 or fp32",
                )
            )
        faults += image_faults("backbone", self.backbone, self.data.image_size)
        faults += self._size_faults()
        faults += self._view_faults()
        faults += self._probe_faults()
        faults += self._source_faults()
        faults += self._branch_faults()
        faults += [
            (
                (f"evaluations[{index}].data", "data"),
                "this field is required: the test images can only be guessed if data.path ends "
                "in 'train'",
            )
            for index, evaluation in enumerate(self.evaluations)
            if evaluation.data is None
            and self.data.test_set() is None
            and needs_annotated(evaluation.protocol) is None
        ]
        faults += self._evaluation_faults()
        if faults:
            raise CrossFieldError(faults)
        return self

    def _extension_faults(self, extends: Extends) -> list[tuple[tuple[str, ...], str]]:
        fields = ("training.epochs", "extends.epochs")
        left = self.training.epochs - extends.epochs
        if left <= 0:
            return [(fields, f"must be more than the {extends.epochs} that are trained already")]
        warmup = self.training.warmup_epochs
        if extends.schedule == "rewarm" and warmup > left:
            together = ("training.warmup_epochs", *fields)
            return [(together, f"{warmup} is more than the {left} epochs that are left")]
        return []

    def _init_faults(self) -> list[tuple[tuple[str, ...], str]]:
        frozen, epochs = self.training.freeze_epochs, self.training.epochs
        faults: list[tuple[tuple[str, ...], str]] = []
        if frozen and self.init is None:
            text = "without init the backbone's weights are random: freezing them trains nothing"
            faults.append((("training.freeze_epochs", "init"), text))
        elif frozen >= epochs:
            text = f"leaves no epoch to train the backbone: must be less than {epochs}"
            faults.append((("training.freeze_epochs", "training.epochs"), text))
        return faults

    def _size_faults(self) -> list[tuple[tuple[str, ...], str]]:
        sizes, epochs, image_size = self.training.sizes, self.training.epochs, self.data.image_size
        if not sizes:
            return []
        field = "training.sizes"
        faults: list[tuple[tuple[str, ...], str]] = []
        (first, _), (last, size) = sizes[0], sizes[-1]
        if first != 0:
            faults.append(((field,), f"must begin with epoch 0, not {first}"))
        descending = [(a, b) for (a, _), (b, _) in pairwise(sizes) if b <= a]
        if descending:
            before, after = descending[0]
            faults.append(((field,), f"epochs must ascend: {after} comes after {before}"))
        elif last >= epochs:
            text = f"epoch {last} is not trained: the last one of {epochs} is {epochs - 1}"
            faults.append(((field, "training.epochs"), text))
        if size != image_size:
            text = f"must end with data.image_size ({image_size}), at which the encoder is "
            text += f"measured: add a pair, or set data.image_size to {size}"
            faults.append(((field, "data.image_size"), text))
        for name, backbone in self._backbones():
            if backbone.is_transformer:
                text = f"{backbone.name} takes images of one size: leave training.sizes out"
                faults.append(((field, f"{name}.name"), text))
            elif self._smallest_size != image_size:
                faults += image_faults(name, backbone, self._smallest_size, field)
        return faults

    def _view_faults(self) -> list[tuple[tuple[str, ...], str]]:
        views, image_size = self.augmentation.views, self.data.image_size
        places = isinstance(self.method, VICRegL)
        if not views.local and not places:
            return []
        field, size_field = "augmentation.views.local", "augmentation.views.local_size"
        cause = "method.name" if places else field
        if not isinstance(self.method, VICRegTerms):
            text = f"needs method vicreg or vicregl, not {self.method.name}: use 0"
            return [((field, "method.name"), text)]
        branches = self.branches
        unlike = {
            "branches.weights": branches.weights != "shared",
            "branches.stop_gradient": branches.stop_gradient,
            "branches.predictor": branches.predictor is not None,
        }
        if any(unlike.values()):
            text = "needs branches that are alike: weights shared, without stop_gradient and "
            text += "predictor"
            return [((cause, *(name for name, is_so in unlike.items() if is_so)), text)]
        if places and self.expander.normalization != "none":
            fields = ("expander.normalization", "method.name")
            return [(fields, "must be none for vicregl, whose places are not normalised")]
        if not views.local:
            return []
        if views.local_size > self._smallest_size:
            fields = (size_field, "training.sizes" if self.training.sizes else "data.image_size")
            text = f"must be at most {self._smallest_size}, as a global view is ({fields[1]})"
            return [(fields, text)]
        if self.backbone.is_transformer and views.local_size != image_size:
            text = f"{self.backbone.name} takes images of one size: here {image_size}"
            return [((size_field, "data.image_size"), text)]
        return image_faults("backbone", self.backbone, views.local_size, size_field)

    @property
    def _smallest_size(self) -> int:
        """Side of a global view, in pixels."""
        return min((size for _, size in self.training.sizes), default=self.data.image_size)

    def _backbones(self) -> list[tuple[str, Backbone]]:
        """The backbones that are trained, and their fields."""
        second = self.branches.backbone
        own = [("backbone", self.backbone)]
        return own if second is None else [*own, ("branches.backbone", second)]

    def _probe_faults(self) -> list[tuple[tuple[str, ...], str]]:
        probe, size = self.watch.probe, self.data.image_size
        if probe is None or not self.backbone.is_transformer:
            return []
        return [
            (
                (f"watch.probe.{part}.image_size", "data.image_size"),
                f"{self.backbone.name} takes images of one size: here {size}",
            )
            for part, data in (("train", probe.train), ("test", probe.test))
            if data.image_size != size
        ]

    def _source_faults(self) -> list[tuple[tuple[str, ...], str]]:
        trained = {"data": self.data}
        if self.watch.probe is not None:
            trained["watch.probe.train"] = self.watch.probe.train
            trained["watch.probe.test"] = self.watch.probe.test
        faults: list[tuple[tuple[str, ...], str]] = [
            (
                (f"{field}.source",),
                f"{data.source} is for protocol {only_for}: use image_folder with its images",
            )
            for field, data in trained.items()
            if (only_for := annotated_only_for(data))
        ]
        for index, evaluation in enumerate(self.evaluations):
            above, protocol = f"evaluations[{index}].", evaluation.protocol
            needed = needs_annotated(protocol)
            if evaluation.data is not None:
                for part in evaluation.parts():
                    faults += source_faults(part.protocol, evaluation.data, above)
            elif protocol is not None and needed:
                text = f"this field is required: protocol {protocol.name} needs {needed}"
                faults.append(((f"{above}data", f"{above}protocol.name"), text))
            backbone = ("backbone", self.backbone)
            faults += detection_faults(protocol, evaluation.data, backbone, above)
        return faults

    def _evaluation_faults(self) -> list[tuple[tuple[str, ...], str]]:
        faults: list[tuple[tuple[str, ...], str]] = []
        for index, evaluation in enumerate(self.evaluations):
            above = f"evaluations[{index}]."
            last = max(evaluation.at_epochs, default=0)
            if last > self.training.epochs:
                fields = (f"{above}at_epochs", "training.epochs")
                faults.append((fields, f"epoch {last} is not trained"))
            still = [each.name for each in evaluation.parts() if not draws(each.protocol)]
            if evaluation.seeds > 1 and evaluation.protocol is not None and still:
                text = f"protocol {still[0]} draws nothing at random: use 1"
                faults.append(((f"{above}seeds", f"{above}protocol.name"), text))
        return faults

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
        """See ``JobSpec.needs``; of an elastic job, what its largest size needs."""
        workers = self.resources.workers
        count = workers if isinstance(workers, int) else self.elastic_sizes[-1]
        return Needs(
            Bundle(self.resources.cpus_per_worker, self.resources.gpus_per_worker), count=count
        )

    @property
    def elastic_sizes(self) -> tuple[int, ...]:
        """See ``JobSpec.elastic_sizes``."""
        return self.resources.sizes(self.training)

    @property
    def encoder_job(self) -> str | None:
        """See ``JobSpec.encoder_job``."""
        return self.init.job if isinstance(self.init, JobWeights) else None

    @property
    def encoder_field(self) -> str:
        """See ``JobSpec.encoder_field``."""
        return "init"

    @property
    def encoder_path(self) -> str | None:
        """See ``JobSpec.encoder_path``."""
        return self.init.path if isinstance(self.init, PathWeights) else None

    @property
    def extended_job(self) -> str | None:
        """See ``JobSpec.extended_job``."""
        return self.extends.job if self.extends is not None else None

    def _already_done(self, extended: PretrainSpec) -> list[FieldFault]:
        done = extended.training.epochs
        if self.extends is None or self.extends.epochs == done:
            return []
        return [FieldFault("extends.epochs", f"job {self.extends.job} has trained {done}")]

    def _unlike(self, extended: PretrainSpec) -> list[str]:
        different = [name for name in _SAME if getattr(self, name) != getattr(extended, name)]
        if self.training.batch_size != extended.training.batch_size:
            different.append("training.batch_size")
        return different

    def datasets(self) -> dict[str, Data]:
        """See ``JobSpec.datasets``."""
        sets: dict[str, Data] = {"data": self.data}
        if self.watch.probe is not None:
            sets["watch.probe.train"] = self.watch.probe.train
            sets["watch.probe.test"] = self.watch.probe.test
        for index, evaluation in enumerate(self.evaluations):
            field = f"evaluations[{index}].data"
            data = self._data_of(evaluation)
            if evaluation.data is not None:
                sets[f"{field}.train"] = data.train
            sets[f"{field}.test"] = data.test
        return sets

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """The epochs after which the encoder is kept, ascending; not the last one."""
        asked = {epoch for each in self.evaluations for epoch in each.at_epochs}
        return tuple(sorted(asked - {self.training.epochs}))

    def follow_ups(self, job_id: str) -> list[EvaluateSpec]:
        """The evaluations of the encoders that this pretraining, as job ``job_id``, will make."""
        made: list[EvaluateSpec] = []
        names: Counter[str] = Counter()
        for evaluation in self.evaluations:
            for part in evaluation.parts():
                names[part.name] += 1
                again = f"-{names[part.name]}" if names[part.name] > 1 else ""
                epochs = (e for e in evaluation.at_epochs if e < self.training.epochs)
                made += [
                    self._evaluation_of(job_id, evaluation, part, f"{part.name}{again}", epoch)
                    for epoch in (*sorted(set(epochs)), None)
                ]
        return made

    def evaluations_of(self, job_id: str, evaluation: Evaluation) -> list[EvaluateSpec]:
        """The evaluate jobs of the encoder that this pretraining, as job ``job_id``, will make.

        Raises:
            ValueError: the evaluation names no data, and the test images cannot be guessed.
        """
        return [
            self._evaluation_of(job_id, evaluation, part, part.name, None)
            for part in evaluation.parts()
        ]

    def _data_of(self, evaluation: Evaluation) -> EvaluationData:
        if evaluation.data is not None:
            return evaluation.data
        test = self.data.test_set()
        if test is None:
            raise ValueError("the test images can only be guessed if data.path ends in 'train'")
        return EvaluationData(train=self.data, test=test)

    def _evaluation_of(
        self, job_id: str, evaluation: Evaluation, part: Part, curve: str, epoch: int | None
    ) -> EvaluateSpec:
        data = self._data_of(evaluation)
        if evaluation.suite is not None:
            train = data.train.model_copy(update={"share": part.share * data.train.share})
            data = EvaluationData(train=train, test=data.test, interpolation=part.interpolation)
        when = "" if epoch is None else f"-epoch-{epoch}"
        return EvaluateSpec(
            kind="evaluate",
            name=f"{self.name}-{curve}"[: 200 - len(when)] + when,
            experiment=self.experiment,
            labels=self.labels,
            priority=self.priority,
            encoder=JobEncoder(job=job_id, epoch=epoch),
            protocol=part.protocol,
            data=data,
            seeds=evaluation.seeds if draws(part.protocol) else 1,
            curve=curve,
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


def _of_size(data: Any, probe: dict[str, Any]) -> dict[str, Any]:
    """The probe's images, of the size of the training images unless they say another."""
    if not isinstance(data, dict) or "image_size" not in data:
        return probe
    size = {"image_size": data["image_size"]}
    parts = {part: probe[part] for part in ("train", "test") if isinstance(probe.get(part), dict)}
    return probe | {part: size | given for part, given in parts.items()}


def _in_parts(parts: int) -> str:
    return f" in each of {parts} parts" if parts > 1 else ""
