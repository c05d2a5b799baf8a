"""Encoders: what a run publishes, and what an evaluation loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from vicreg_platform.data_root import resolve_inside
from vicreg_platform.specs import (
    Backbone,
    JobEncoder,
    ModelEncoder,
    PathEncoder,
    PretrainSpec,
    UntrainedEncoder,
)
from vicreg_platform.specs.evaluate import Encoder
from vicreg_workers.failures import UserFailure
from vicreg_workers.selfsup.imagenet import IMAGENET_MEAN, IMAGENET_STD
from vicreg_workers.selfsup.model.backbones import (
    backbone_state,
    build_backbone,
    representation_size,
)
from vicreg_workers.weights import (
    DESCRIPTION,
    FOLDER,
    WEIGHTS,
    kept_encoder,
    kept_weights,
    load_weights,
    published_weights,
    read_weights,
)


def encoder_files(backbone: nn.Module, spec: PretrainSpec, step: int) -> dict[str, bytes]:
    """The files of a published encoder after a step: their content by name.

    The description comes last: where it is, the weights are.
    """
    description = {
        "backbone": spec.backbone.model_dump(),
        "representation_size": representation_size(backbone, spec.data.image_size),
        "image_size": spec.data.image_size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "method": spec.method.name,
        "step": step,
    }
    return {
        WEIGHTS: save(backbone_state(backbone)),
        DESCRIPTION: json.dumps(description, indent=1).encode(),
    }


@dataclass(frozen=True)
class Published:
    """An encoder published by a run."""

    backbone: nn.Module
    """In eval mode."""
    spec: Backbone
    image_size: int
    """Side of the images it was trained on, in pixels."""
    step: int | None = None
    """The training's steps before it; None if it was published before 0.3.0."""


def load_encoder(
    encoder: Encoder,
    image_size: int,
    encoder_run_id: str | None,
    tracking_uri: str,
    data_root: Path,
    storage: str = "",
) -> tuple[nn.Module, int | None]:
    """Load the backbone that a spec names, in eval mode.

    Args:
        encoder: where it comes from.
        image_size: side of its images, in pixels.
        encoder_run_id: the run of the job, if it comes from a job.
        tracking_uri: address of the MLflow server.
        data_root: the folder that paths are relative to.
        storage: where the jobs' folders are.

    Returns:
        The backbone, and the training's steps before it where they are known.

    Raises:
        UserFailure: there is no such encoder, or its weights do not fit.
        InfrastructureFailure: MLflow is unreachable.
    """
    if isinstance(encoder, UntrainedEncoder):
        torch.manual_seed(encoder.seed)
        return build_backbone(encoder.untrained, image_size).eval(), None
    if isinstance(encoder, PathEncoder):
        try:
            path = resolve_inside(data_root, encoder.path)
        except ValueError as error:
            raise UserFailure(f"encoder.path: {error}") from None
        return _with_weights(encoder.backbone, image_size, read_weights(path), str(path)), None
    if isinstance(encoder, ModelEncoder):
        return _of_size(load_published(encoder.model, tracking_uri), image_size)
    if isinstance(encoder, JobEncoder) and encoder.epoch is not None:
        folder = kept_encoder(storage, encoder.job, encoder.epoch)
        return _of_size(_published(*kept_weights(folder), str(folder)), image_size)
    run_id = encoder_run_id if isinstance(encoder, JobEncoder) else encoder.run
    return _of_size(load_published(f"runs:/{run_id}/{FOLDER}", tracking_uri), image_size)


def _of_size(published: Published, image_size: int) -> tuple[nn.Module, int | None]:
    if published.spec.is_transformer and published.image_size != image_size:
        raise UserFailure(
            f"the encoder is a {published.spec.name} for images of {published.image_size} pixels: "
            f"set data.train.image_size and data.test.image_size to that, not {image_size}"
        )
    return published.backbone, published.step


def load_published(uri: str, tracking_uri: str) -> Published:
    """Load the encoder at an MLflow address: ``runs:/<run>/encoder`` or ``models:/<name>/1``.

    Raises:
        UserFailure: there is none, or its weights do not fit.
        InfrastructureFailure: MLflow is unreachable.
    """
    return _published(*published_weights(uri, tracking_uri), uri)


def _published(description: dict[str, Any], weights: Mapping[str, Any], source: str) -> Published:
    try:
        spec, image_size = Backbone(**description["backbone"]), int(description["image_size"])
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserFailure(f"the {DESCRIPTION} of {source} describes no encoder: {reason}") from None
    backbone = _with_weights(spec, image_size, weights, source)
    return Published(backbone, spec, image_size, description.get("step"))


def _with_weights(
    spec: Backbone, image_size: int, weights: Mapping[str, Any], source: str
) -> nn.Module:
    backbone = build_backbone(spec, image_size)
    load_weights(backbone, weights, spec, source)
    return backbone.eval()
