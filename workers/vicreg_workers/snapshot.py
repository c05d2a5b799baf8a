"""Copies of a state's tensors, which the training may change meanwhile."""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]
"""The keys and indices that lead to a tensor."""


class Snapshot:
    """A copy of a state in the host's memory.

    The memory is kept for the next copy: to get 1.4 GB from the system takes several times as long
    as to fill it. The memory for a GPU's tensors is pinned, so that it is filled at the speed of
    the bus.
    """

    def __init__(self) -> None:
        self._buffers: dict[Path, Tensor] = {}
        self._making_room: threading.Thread | None = None

    def make_room(self, state: dict[str, Any]) -> None:
        """Begin to get the memory for copies of states like ``state``, in a thread.

        The first copy is then as fast as those that follow. Returns at once.

        Args:
            state: see ``take``.
        """
        tensors = dict(_tensors(state))
        self._making_room = threading.Thread(
            target=self._get_memory, args=(tensors,), name="snapshot", daemon=True
        )
        self._making_room.start()

    def _get_memory(self, tensors: dict[Path, Tensor]) -> None:
        # Whoever takes the copy is told if there is none.
        with suppress(RuntimeError):
            for path, tensor in tensors.items():
                if self._buffer_for(path, tensor) is not None:
                    continue
                memory = (buffer := _empty_like(tensor)).untyped_storage()
                # The system gives it when it is written to. Without Python's lock, and, unlike
                # torch's own fill, without threads that the training needs.
                ctypes.memset(memory.data_ptr(), 0, memory.nbytes())
                self._buffers[path] = buffer

    def _buffer_for(self, path: Path, tensor: Tensor) -> Tensor | None:
        buffer = self._buffers.get(path)
        return None if buffer is None or _layout(buffer) != _layout(tensor) else buffer

    def take(self, state: dict[str, Any]) -> dict[str, Any]:
        """Copy ``state``; overwrites the copy taken before.

        Args:
            state: as torch's ``state_dict`` makes them: tensors in dicts, lists and tuples.

        Returns:
            The copy, complete when this returns.
        """
        if self._making_room is not None:
            self._making_room.join()
            self._making_room = None
        buffers: dict[Path, Tensor] = {}
        copies: dict[int, Any] = {}
        with torch.no_grad(), _one_thread():
            for path, tensor in _tensors(state):
                buffer = self._buffer_for(path, tensor)
                if buffer is None:
                    buffer = _empty_like(tensor)
                buffers[path] = copies[id(tensor)] = buffer.copy_(tensor, non_blocking=True)
        if any(buffer.is_pinned() for buffer in buffers.values()):
            torch.cuda.synchronize()
        self._buffers = buffers
        # The rest is small. A tensor is replaced by its copy, wherever it is found.
        content: dict[str, Any] = copy.deepcopy(state, copies)
        return content


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Copy with one thread, which is as fast as memory is.

    Several wait for each other at each of some hundred tensors: 0.7 s instead of 0.12 for 1.4 GB.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _tensors(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _tensors(each, (*path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _tensors(each, (*path, index))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype
