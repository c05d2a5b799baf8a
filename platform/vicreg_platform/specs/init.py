"""The weights that a pretraining starts from."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints, Tag

from vicreg_platform.specs.base import SpecModel, by_field
from vicreg_platform.specs.data import RelativePath
from vicreg_platform.specs.job import Identifier, ModelAddress


class _Weights(SpecModel):
    strict: bool = True
    """``false``: what does not fit the backbone is left out, as long as 90 % of its numbers are
    found."""


class JobWeights(_Weights):
    """The encoder of a pretraining job; this job waits until that one has succeeded."""

    job: Identifier
    """The id of the pretraining job."""


class RunWeights(_Weights):
    """The encoder logged to an MLflow run."""

    run: Identifier
    """The id of the run."""


class ModelWeights(_Weights):
    """An encoder in MLflow's model registry."""

    model: ModelAddress
    """Such as ``models:/vicreg-resnet18/1`` or, by an alias, ``models:/vicreg-resnet18@candidate``:
    the version that has the alias when the job runs is the tag ``vicreg.encoder`` of its run."""


class PathWeights(_Weights):
    """A file under the data root: ``.safetensors``, or a ``.pth`` loaded with ``weights_only``.

    The published files of VICReg and DINO, whole checkpoints of both and of solo-learn and MoCo,
    and torchvision's and timm's are read: wherever in the file the backbone's names are found.
    """

    path: RelativePath
    """Relative to the data root."""


class TorchvisionWeights(_Weights):
    """Weights of torchvision that lie in torch's hub folder.

    That is ``$TORCH_HOME/hub/checkpoints`` of each worker. They are downloaded only if
    ``VICREG_ALLOW_DOWNLOADS`` is set there.
    """

    torchvision: Annotated[str, StringConstraints(pattern=r"^\w+_Weights\.\w+$")]
    """Such as ``ResNet50_Weights.IMAGENET1K_V2``."""


class TimmWeights(_Weights):
    """Weights of timm that lie in Hugging Face's or torch's cache.

    These are ``$HF_HOME`` and ``$TORCH_HOME`` of each worker. They are downloaded only if
    ``VICREG_ALLOW_DOWNLOADS`` is set there.
    """

    timm: Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=200)]
    """A network and its weights, such as ``resnet50.a1_in1k``."""


class HuggingFaceWeights(_Weights):
    """The weights of a repository that lies in Hugging Face's cache, ``$HF_HOME`` of each worker.

    They are downloaded only if ``VICREG_ALLOW_DOWNLOADS`` is set there.
    """

    huggingface: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$", max_length=200)]
    """Owner and name, such as ``timm/resnet50.a1_in1k``."""


Init = Annotated[
    Annotated[JobWeights, Tag("job")]
    | Annotated[RunWeights, Tag("run")]
    | Annotated[ModelWeights, Tag("model")]
    | Annotated[PathWeights, Tag("path")]
    | Annotated[TorchvisionWeights, Tag("torchvision")]
    | Annotated[TimmWeights, Tag("timm")]
    | Annotated[HuggingFaceWeights, Tag("huggingface")],
    by_field("init", ("job", "run", "model", "path", "torchvision", "timm", "huggingface")),
]
