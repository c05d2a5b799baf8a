"""Runs the protocol ``features``: stores the representations."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vicreg_platform.specs import FeaturesProtocol
from vicreg_workers.evaluate.evaluation import Evaluation


def store_features(evaluation: Evaluation, protocol: FeaturesProtocol) -> dict[str, float]:
    """Store the representations and labels as the artifact ``features.npz``. No metrics.

    Images without labels have -1. Many representations are in float16, see ``Features``.
    """
    train, test = evaluation.features()
    labelled = bool(evaluation.train_images.classes)
    tensors: dict[str, Tensor] = {
        "train": train.representations,
        "train_labels": train.labels if labelled else torch.full_like(train.labels, -1),
        "test": test.representations,
        "test_labels": evaluation.test_labels(test),
    }
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["classes"] = np.array(list(evaluation.train_images.classes))
    # In a file: it may be as large as the representations.
    with tempfile.NamedTemporaryFile(suffix=".npz", delete=False) as file:
        try:
            np.savez_compressed(file, **arrays)
        except BaseException:
            Path(file.name).unlink()
            raise
    evaluation.file("features.npz", Path(file.name))
    return {}
