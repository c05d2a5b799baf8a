"""The loss of a whole batch, with the memory of a part of it.

VICReg's variance and covariance, and the other methods' terms, are of the batch: the mean of the
losses of its parts is another loss. So the network passes the parts twice (gradient caching: Gao et
al. 2021, arXiv 2101.06983). The first time, only the embeddings are kept. From those of all parts
come the loss and its gradient at each embedding. The second time, each part is passed again and its
gradient is passed back, and the parameters' gradients add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vicreg_workers.selfsup.model.compile import Forward
from vicreg_workers.selfsup.model.network import Embeddings
from vicreg_workers.selfsup.random_state import RandomState


class Accumulation:
    """Passes a batch through the network in parts.

    Layers that draw at random draw the same both times. BatchNorm's statistics are of a part, and
    count once.

    Args:
        model: the module whose forward pass trains the network.
        forward: its forward pass, compiled or not.
        autocast: makes the precision context of the forward pass.
        random: the random state of the device.
        parts: how many; divides the images of this process.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Forward,
        autocast: Callable[[], AbstractContextManager[object]],
        random: RandomState,
        parts: int,
    ) -> None:
        self._model = model
        self._forward = forward
        self._autocast = autocast
        self._random = random
        self._parts = parts
        self._views: list[tuple[Tensor, ...]] = []
        self._states: list[dict[str, Any]] = []
        self._leaves: list[Tensor] = []

    def embeddings(self, views: tuple[Tensor, ...]) -> Embeddings:
        """The embeddings of all images, to which ``backward`` leads a loss back.

        Args:
            views: each ``[N, 3, S, S]``.
        """
        self._views = list(zip(*(view.chunk(self._parts) for view in views), strict=True))
        self._states = []
        made: list[Embeddings] = []
        with torch.no_grad(), _same_statistics(self._model):
            for part in self._views:
                self._states.append(self._random.state_dict())
                with self._autocast():
                    made.append(self._forward(*part))
        tensors = [_tensors(each) for each in made]
        joined = [
            # Local views and places lie before the images.
            torch.cat(same, dim=same[0].ndim - 2)
            for same in zip(*tensors, strict=True)
        ]
        self._leaves = [tensor.requires_grad_() for tensor in joined]
        return _like(made[0], self._leaves)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss`` to that of the parameters."""
        gradients = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        parts = [
            (None,) * self._parts
            if gradient is None
            else gradient.chunk(self._parts, dim=gradient.ndim - 2)
            for gradient in gradients
        ]
        after = self._random.state_dict()
        for number, (views, state) in enumerate(zip(self._views, self._states, strict=True)):
            last = number == self._parts - 1
            self._random.load_state_dict(state)
            with nullcontext() if last else self._unshared():
                with self._autocast():
                    outputs = _tensors(self._forward(*views))
                pairs = [
                    (output, part[number])
                    for output, part in zip(outputs, parts, strict=True)
                    # What a branch computes without gradient leads nowhere.
                    if output.requires_grad and part[number] is not None
                ]
                torch.autograd.backward(
                    [output for output, _ in pairs], [gradient for _, gradient in pairs]
                )
        self._random.load_state_dict(after)
        self._views, self._leaves = [], []

    def _unshared(self) -> AbstractContextManager[None]:
        """Gradients are summed over the processes once, with the last part's."""
        if isinstance(self._model, DistributedDataParallel):
            return self._model.no_sync()
        return nullcontext()


@contextmanager
def _same_statistics(model: nn.Module) -> Iterator[None]:
    """Undo what forward passes change of BatchNorm's running statistics."""
    before = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), before, strict=True):
        buffer.copy_(value)


def _tensors(embeddings: Embeddings) -> list[Tensor]:
    """The tensors in it, each once."""
    found = [embeddings.first, embeddings.second]
    found += [each for pair in embeddings.pairs for each in pair]
    if embeddings.local is not None:
        found.append(embeddings.local)
    found += embeddings.places
    return list({id(each): each for each in found}.values())


def _like(embeddings: Embeddings, tensors: list[Tensor]) -> Embeddings:
    """The same with other tensors, in the order of ``_tensors``."""
    other = {id(old): new for old, new in zip(_tensors(embeddings), tensors, strict=True)}
    return Embeddings(
        other[id(embeddings.first)],
        other[id(embeddings.second)],
        tuple((other[id(x)], other[id(y)]) for x, y in embeddings.pairs),
        None if embeddings.local is None else other[id(embeddings.local)],
        tuple(other[id(each)] for each in embeddings.places),
    )
