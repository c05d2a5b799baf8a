"""CUDA tensors on a machine without a GPU: their shapes, types and devices are real, their values
are not there.

An operation runs for real if all its tensors are on the CPU; as soon as one is on the fake device,
torch's ``FakeTensorMode`` says what it would return, and refuses to mix devices. What would make
the host wait for the device is recorded, or refused: a value that is read, a shape that depends on
values, a copy that blocks.

Gradients are computed by ``backward`` below. torch's own engine needs a real device; here each
node of the graph is called in turn, and the gradient that arrives must fit.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.parallel import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from vicreg_workers.selfsup.data import transforms

CUDA = torch.device("cuda", 0)
READ_BY_HOST = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal"}
SHAPED_BY_VALUES = {
    "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::repeat_interleave.Tensor",
}  # fmt: skip
INDEXING = {"aten::index.Tensor", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class FakeCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends operations to the CPU or to the fake device, and records what waits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[str] = []
        """What made the host wait, and the line of the project that it came from."""
        self.kernels: dict[str, int] = defaultdict(int)
        """Operations on the device, by name."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        wanted = kwargs.get("device")
        on_device = wanted is not None and torch.device(wanted).type == "cuda"
        if not on_device and not any(isinstance(each, FakeTensor) for each in tensors):
            with _disable_current_modes():
                return function(*args, **kwargs)
        name = function.name()
        if any(each.device.type == "cuda" for each in tensors) or on_device:
            self.kernels[name] += 1
            if why := _waits(name, args, kwargs):
                self.waits.append(f"{why} at {_line()}")
        return function(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> str | None:
    """Why an operation on the device makes the host wait, or None."""
    if name in READ_BY_HOST or name in SHAPED_BY_VALUES:
        return name
    if name in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return f"{name} by a mask"
        if any(index.device.type == "cpu" and index.ndim for index in indices):
            return f"{name} by indices on the CPU"
    if name in ("aten::_to_copy", "aten::copy_"):
        source = args[0] if name == "aten::_to_copy" else args[1]
        target = kwargs.get("device") or args[0].device
        blocks = not (kwargs.get("non_blocking") or (name == "aten::copy_" and args[2:] == (True,)))
        if source.device.type != torch.device(target).type and blocks and source.ndim:
            return f"{name} from {source.device.type}"
    return None


def _line() -> str:
    own = [frame for frame in traceback.extract_stack() if "vicreg_workers" in frame.filename]
    return f"{own[-1].filename.split('vicreg_workers/')[1]}:{own[-1].lineno}" if own else "a test"


def backward(root: Tensor) -> None:
    """Compute the gradients of a scalar, as ``root.backward()`` does."""
    assert root.grad_fn is not None
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    arrived[root.grad_fn][0] = torch.ones_like(root)
    with torch.no_grad():
        for node in _from_root(root.grad_fn):
            gradients = arrived.pop(node, {})
            if not gradients:
                continue
            if type(node).__name__ == "AccumulateGrad":
                _accumulate(node.variable, gradients[0])
                continue
            wanted = [
                gradients[place] if place in gradients else _zeros(each)
                for place, each in enumerate(node._input_metadata)
            ]
            # A function of Python's is called by its ``apply``, one of torch's own directly.
            returned = getattr(node, "apply", node)(*wanted)
            if not isinstance(returned, tuple):
                returned = (returned,)
            for gradient, (following, place) in zip(returned, node.next_functions, strict=False):
                if following is None or gradient is None:
                    continue
                gradient = _fitted(gradient, following._input_metadata[place])
                slot = arrived[following]
                slot[place] = slot[place] + gradient if place in slot else gradient


def _from_root(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that its gradients go to."""
    finished: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        if left:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(each, False) for each, _ in node.next_functions if each is not None]
    return finished[::-1]


def _zeros(metadata: Any) -> Tensor:
    return torch.zeros(list(metadata.shape), dtype=metadata.dtype, device=metadata.device)


def _fitted(gradient: Tensor, metadata: Any) -> Tensor:
    """As torch's engine does before it hands a gradient on."""
    if gradient.shape != torch.Size(metadata.shape):
        gradient = gradient.sum_to_size(list(metadata.shape))
    assert gradient.device == metadata.device
    return gradient.to(metadata.dtype)


def _accumulate(parameter: Tensor, gradient: Tensor) -> None:
    assert gradient.shape == parameter.shape
    assert (gradient.device, gradient.dtype) == (parameter.device, parameter.dtype)
    if parameter.grad is None:
        # In the parameter's layout, as torch does if it is dense.
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    else:
        parameter.grad += gradient


def _of_channels(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float32)


_MISSING: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": lambda x, eps: (_of_channels(x), _of_channels(x)),
    "batch_norm_gather_stats_with_counts": lambda x, *others: (_of_channels(x), _of_channels(x)),
    "batch_norm_elemt": lambda x, *others: torch.empty_like(x),
    "batch_norm_backward_reduce": lambda gradient, x, *others: tuple(
        _of_channels(x) for _ in range(4)
    ),
    "batch_norm_backward_elemt": lambda gradient, x, *others: torch.empty_like(x),
}
"""What torch's kernels of synchronised BatchNorm return: they have no fake version."""


def fused_sgd_(
    parameters: list[Tensor], gradients: list[Tensor], momenta: list[Tensor], **options: Any
) -> None:
    """Checks what torch's kernel takes for granted: it has no fake version."""
    assert len(parameters) == len(gradients) == len(momenta)
    for parameter, *others in zip(parameters, gradients, momenta, strict=True):
        for other in others:
            assert (other.device, other.dtype) == (parameter.device, parameter.dtype)
            assert other.shape == parameter.shape
            long = [place for place, size in enumerate(parameter.shape) if size > 1]
            assert [other.stride(d) for d in long] == [parameter.stride(d) for d in long]
    for name in ("grad_scale", "found_inf"):
        if (value := options.get(name)) is not None:
            assert (value.device, value.dtype, value.ndim) == (
                parameters[0].device, torch.float32, 0,
            )  # fmt: skip


@contextmanager
def fake_cuda(processes: int = 1) -> Iterator[FakeCuda]:
    """A machine with a GPU of 80 GB, on which this process trains as the first of ``processes``."""
    library = torch.library._scoped_library("aten", "IMPL", "Meta")
    with pytest.MonkeyPatch.context() as patch, library as meta:
        for name, kernel in _MISSING.items():
            meta.impl(name, kernel)
        # torch asks for a driver before it lets a context or a scaler be made for CUDA.
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
        patch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda device: SimpleNamespace(total_memory=80 * 10**9),
        )
        patch.setattr(torch, "_fused_sgd_", fused_sgd_)
        patch.setattr(Tensor, "backward", backward)
        # DistributedDataParallel compares the parameters' shapes by reading them, and what sums
        # the gradients times itself on a real device.
        patch.setattr(distributed, "_verify_param_shape_across_processes", lambda *args: [])
        ddp = distributed.DistributedDataParallel
        patch.setattr(ddp, "_pre_forward", lambda self, *inputs: (inputs, {}))
        patch.setattr(ddp, "_post_forward", lambda self, output: output)
        transforms._channels.cache_clear()
        if processes > 1:
            dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), FakeCuda() as device:
                yield device
        finally:
            transforms._channels.cache_clear()
            if processes > 1:
                dist.destroy_process_group()
