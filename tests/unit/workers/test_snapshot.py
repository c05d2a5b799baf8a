"""A snapshot does not change with what it was taken of, and its memory is used again."""

from collections import OrderedDict

import torch
from torch import nn

from vicreg_workers.snapshot import Snapshot


def test_a_snapshot_does_not_change_with_the_training() -> None:
    linear = nn.Linear(3, 4)
    network = nn.Sequential(linear, nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": 1}
    weights = linear.weight.detach().clone()
    momentum = optimizer.state[linear.weight]["momentum_buffer"].clone()
    copy = Snapshot().take(state)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.0
    assert torch.equal(copy["network"]["0.weight"], weights)
    assert torch.equal(copy["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert copy["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert copy["step"] == 1
    # What load_state_dict reads besides the tensors.
    assert isinstance(copy["network"], OrderedDict)
    assert copy["network"]._metadata["1"] == {"version": 2}  # type: ignore[attr-defined]


def test_the_memory_is_used_again() -> None:
    snapshot = Snapshot()
    first = snapshot.take({"parts": [torch.ones(3), torch.zeros(2)]})["parts"]
    second = snapshot.take({"parts": [torch.full((3,), 2.0), torch.zeros(5)]})["parts"]
    assert second[0].data_ptr() == first[0].data_ptr()
    assert second[0].tolist() == [2.0, 2.0, 2.0]
    assert second[1].shape == (5,)  # which has grown


def test_the_layout_is_kept() -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    column = torch.randn(5, 4)[:, 1]
    copy = Snapshot().take({"weight": weight, "column": column})
    assert copy["weight"].stride() == weight.stride()
    assert torch.equal(copy["weight"], weight)
    assert torch.equal(copy["column"], column)
    assert copy["column"].untyped_storage().nbytes() == 5 * 4  # not the matrix that it is of
