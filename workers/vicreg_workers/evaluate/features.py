"""Runs the protocol ``features``: stores the representations."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from torch import Tensor

from vicreg_workers.evaluate.evaluation import Evaluation


def export_features(evaluation: Evaluation) -> dict[str, float]:
    """Store the representations and labels as the artifact ``features.npz``. No metrics."""
    train, test = evaluation.features()
    tensors: dict[str, Tensor] = {
        "train": train.representations,
        "train_labels": train.labels,
        "test": test.representations,
        "test_labels": evaluation.test_labels(test),
    }
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    arrays["classes"] = np.array(list(evaluation.train_images.classes))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    evaluation.outbox.file("features.npz", buffer.getvalue())
    return {}
