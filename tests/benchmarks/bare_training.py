"""What a user of Ray writes without this platform: two DDP workers, until their first step.

``python bare_training.py FILE`` writes the moment of the first step into the file.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import ray.train.torch
import torch
import torchvision
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def train(config: dict[str, Any]) -> None:
    """One step of a ResNet on images of noise."""
    network = ray.train.torch.prepare_model(torchvision.models.resnet18())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(64, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["file"]).write_text(str(time.time()))


if __name__ == "__main__":
    TorchTrainer(
        train,
        train_loop_config={"file": sys.argv[1]},
        scaling_config=ScalingConfig(num_workers=2),
    ).fit()
