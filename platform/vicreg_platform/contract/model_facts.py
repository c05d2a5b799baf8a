"""What a model card says of an encoder: gathered by the command, written by the workers."""

from __future__ import annotations

import enum
from typing import Any

from pydantic import BaseModel, ConfigDict


class FolderFormat(enum.StrEnum):
    """Whose folder an encoder is exported to."""

    TIMM = "timm"
    HUGGINGFACE = "huggingface"
    """timm's, as `transformers` reads it too, ready for a repository of the Hugging Face Hub."""


class Evaluated(BaseModel):
    """What an evaluation has measured."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    protocol: dict[str, Any]
    data: dict[str, Any]
    scores: dict[str, float]


class ModelFacts(BaseModel):
    """A pretraining that has succeeded, and what is known of its encoder."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    job: str
    name: str
    spec: dict[str, Any]
    """Fully resolved."""
    scores: dict[str, float]
    """What the training has measured itself."""
    evaluations: list[Evaluated]
    """Oldest first."""
    loss: list[tuple[int, float]]
    """Steps, and the loss at each."""
    license: str
    """An identifier of the Hugging Face Hub, such as `apache-2.0`."""
