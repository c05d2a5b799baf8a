"""A snapshot does not change with what it was taken of, and its memory is used again."""

import threading
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from vicreg_workers import snapshot as snapshot_module
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


def test_room_is_made_before_the_first_copy() -> None:
    weights = torch.arange(6.0).view(2, 3).T
    state = {"weights": weights, "none": torch.empty(0), "step": 1}
    snapshot = Snapshot()
    snapshot.make_room(state)
    copy = snapshot.take(state)
    assert torch.equal(copy["weights"], weights)
    assert copy["weights"].stride() == weights.stride()
    # A state that has changed meanwhile is copied all the same.
    snapshot.make_room({"weights": torch.zeros(4)})
    grown = snapshot.take(state | {"more": torch.ones(2)})
    assert torch.equal(grown["weights"], weights)
    assert grown["more"].tolist() == [1.0, 1.0]


def test_the_first_copy_uses_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory is asked for when the training waits."""
    snapshot = Snapshot()
    state = {"weights": torch.ones(5), "momentum": [torch.zeros(3)]}
    made = record_of_memory(monkeypatch)
    snapshot.make_room(state)
    snapshot.take(state)
    assert [thread for _, thread in made] == ["snapshot", "snapshot"]
    assert {count for count, _ in made} == {5, 3}


def record_of_memory(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """How many numbers memory is asked for, and the thread that asks."""
    made: list[tuple[int, str]] = []

    def recorded(tensor: Tensor) -> Tensor:
        made.append((tensor.numel(), threading.current_thread().name))
        return torch.empty_like(tensor)

    monkeypatch.setattr(snapshot_module, "_empty_like", recorded)
    return made


def test_the_layout_is_kept() -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    column = torch.randn(5, 4)[:, 1]
    copy = Snapshot().take({"weight": weight, "column": column})
    assert copy["weight"].stride() == weight.stride()
    assert torch.equal(copy["weight"], weight)
    assert torch.equal(copy["column"], column)
    assert copy["column"].untyped_storage().nbytes() == 5 * 4  # not the matrix that it is of
