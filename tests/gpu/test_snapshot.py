"""A GPU's tensors are copied to pinned memory, which is used again."""

from __future__ import annotations

import torch

from vicreg_workers.snapshot import Snapshot


def test_a_snapshot_of_a_gpu_does_not_change_with_the_training(gpu: torch.device) -> None:
    weights = torch.randn(64, 3, 7, 7, device=gpu).contiguous(memory_format=torch.channels_last)
    before = weights.cpu()
    snapshot = Snapshot()
    copy = snapshot.take({"weights": weights})["weights"]
    weights.zero_()
    assert torch.equal(copy, before)
    assert copy.is_pinned()
    assert copy.stride() == weights.stride()
    again = snapshot.take({"weights": weights})["weights"]
    assert again.data_ptr() == copy.data_ptr()
    assert not again.any()
