"""Runs the protocol ``features``: stores the representations."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vicreg_platform.specs import ExportProtocol
from vicreg_workers.evaluate.evaluation import Evaluation


def export_features(evaluation: Evaluation, protocol: ExportProtocol) -> dict[str, float]:
    """Store the representations and labels as the artifact ``features.npz``. No metrics.

    Images without labels have -1.
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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    evaluation.outbox.file("features.npz", buffer.getvalue())
    return {}
