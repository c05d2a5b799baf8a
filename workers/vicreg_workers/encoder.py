"""Published encoders: a folder with the backbone's weights and their description.

``encoder.safetensors`` holds the backbone alone, under torchvision's names. ``encoder.json`` names
its architecture and says how to prepare images for it.
"""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vicreg_platform.data_root import resolve_inside
from vicreg_platform.errors import NotFound, TrackingRefused, TrackingUnavailable
from vicreg_platform.specs import (
    Backbone,
    JobEncoder,
    ModelEncoder,
    PathEncoder,
    PretrainSpec,
    UntrainedEncoder,
)
from vicreg_platform.specs.evaluate import Encoder
from vicreg_platform.tracking import Tracking
from vicreg_workers.failures import InfrastructureFailure, UserFailure
from vicreg_workers.selfsup.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import (
    backbone_state,
    backbone_weights,
    build_backbone,
    representation_size,
)

logger = logging.getLogger(__name__)

FOLDER = "encoder"
WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"


def encoder_files(backbone: nn.Module, spec: PretrainSpec) -> dict[str, bytes]:
    """The files of a published encoder: their content by name."""
    description = {
        "backbone": spec.backbone.model_dump(),
        "representation_size": representation_size(spec.backbone),
        "image_size": spec.data.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "method": spec.method.name,
    }
    return {
        WEIGHTS: save(backbone_state(backbone)),
        DESCRIPTION: json.dumps(description, indent=1).encode(),
    }


def load_encoder(
    encoder: Encoder,
    image_size: int,
    encoder_run_id: str | None,
    tracking_uri: str,
    data_root: Path,
) -> nn.Module:
    """Load the backbone that a spec names, in eval mode.

    Args:
        encoder: where it comes from.
        image_size: side of its images, in pixels.
        encoder_run_id: the run of the job, if it comes from a job.
        tracking_uri: address of the MLflow server.
        data_root: the folder that paths are relative to.

    Raises:
        UserFailure: there is no such encoder, or its weights do not fit.
        InfrastructureFailure: MLflow is unreachable.
    """
    if isinstance(encoder, UntrainedEncoder):
        torch.manual_seed(encoder.seed)
        return build_backbone(encoder.untrained, image_size).eval()
    if isinstance(encoder, PathEncoder):
        try:
            path = resolve_inside(data_root, encoder.path)
        except ValueError as error:
            raise UserFailure(f"encoder.path: {error}") from None
        return _with_weights(encoder.backbone, image_size, _read_weights(path), str(path))
    if isinstance(encoder, ModelEncoder):
        return _of_size(load_published(encoder.model, tracking_uri), image_size)
    run_id = encoder_run_id if isinstance(encoder, JobEncoder) else encoder.run
    return _of_size(load_published(f"runs:/{run_id}/{FOLDER}", tracking_uri), image_size)


@dataclass(frozen=True)
class Published:
    """An encoder published by a run."""

    backbone: nn.Module
    """In eval mode."""
    spec: Backbone
    image_size: int
    """Side of the images it was trained on, in pixels."""


def _of_size(published: Published, image_size: int) -> nn.Module:
    if published.spec.is_transformer and published.image_size != image_size:
        raise UserFailure(
            f"the encoder is a {published.spec.name} for images of {published.image_size} pixels: "
            f"set data.train.image_size and data.test.image_size to that, not {image_size}"
        )
    return published.backbone


def load_published(uri: str, tracking_uri: str) -> Published:
    """Load the encoder at an MLflow address: ``runs:/<run>/encoder`` or ``models:/<name>/1``.

    Raises:
        UserFailure: there is none, or its weights do not fit.
        InfrastructureFailure: MLflow is unreachable.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = Tracking(tracking_uri).download(uri, Path(folder))
        except TrackingUnavailable as error:
            raise InfrastructureFailure(str(error)) from None
        except (NotFound, TrackingRefused) as error:
            raise UserFailure(f"there is no encoder at {uri}: {error}") from None
        found = next(files.rglob(DESCRIPTION), None)
        if found is None:
            raise UserFailure(
                f"{uri} holds no {DESCRIPTION}: it is not an encoder of this platform"
            )
        description = json.loads(found.read_text())
        weights = _read_weights(found.with_name(WEIGHTS))
    spec, image_size = Backbone(**description["backbone"]), int(description["image_size"])
    return Published(_with_weights(spec, image_size, weights, uri), spec, image_size)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            weights: dict[str, Tensor] = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise UserFailure(f"{path} holds no weights: {error}") from None
    except Exception as error:
        # torch's unpickler refuses anything but tensors with its pickle module's own exception.
        raise UserFailure(f"{path} holds more than weights: {error}") from None
    return weights


def _with_weights(
    spec: Backbone, image_size: int, weights: dict[str, Tensor], source: str
) -> nn.Module:
    backbone = build_backbone(spec, image_size)
    try:
        backbone.load_state_dict(backbone_weights(weights))
    except RuntimeError as error:
        hint = f" for images of {image_size} pixels" if spec.is_transformer else ""
        raise UserFailure(
            f"the weights of {source} do not fit {spec.name} with the {spec.stem} stem{hint}: "
            f"{error}"
        ) from None
    return backbone.eval()
