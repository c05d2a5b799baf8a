"""Repeats a captured step, and finds the first tensor in it that is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from vicreg_workers.selfsup.accumulation import Accumulation
from vicreg_workers.selfsup.capture import Capture
from vicreg_workers.selfsup.errors import InvalidInput
from vicreg_workers.selfsup.loss.methods import MethodLoss
from vicreg_workers.selfsup.model.network import JointEmbedding, build_network
from vicreg_workers.selfsup.model.precision import autocast
from vicreg_workers.selfsup.random_state import RandomState

_UNCHANGED = ("ToCopyBackward0", "TBackward0")
"""What computes nothing: it casts between precisions, or transposes."""


@dataclass(frozen=True)
class Fault:
    """A tensor that is not finite."""

    name: str
    """Which one, in words: "the output of backbone.conv1 (forward)"."""
    bad: int
    """How many of its values are not finite."""
    total: int
    largest: float
    """The largest magnitude of its finite values."""

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.bad} of {self.total} values, "
            f"largest finite magnitude {self.largest:.2g}"
        )


@dataclass
class Replay:
    """What a step computes when it is repeated."""

    fault: Fault | None = None
    """The first tensor that is not finite."""
    passed: list[tuple[str, float]] = field(default_factory=list)
    """What was computed before, in this order: the module and the pass, and the largest magnitude
    of its outputs or, backward, of the gradients that it passes on."""
    values: dict[str, float] = field(default_factory=dict)
    """The loss and its terms."""

    def look(self, name: str, tensors: Iterable[Tensor], where: str | None = None) -> None:
        """Look at what was just computed.

        Args:
            name: of each tensor, in words.
            tensors: on any device, which is waited for.
            where: the module and the pass, if it belongs into ``passed``.
        """
        for tensor in tensors:
            if self.fault is not None or not tensor.is_floating_point() or not tensor.numel():
                continue
            values = tensor.detach()
            finite = values.isfinite()
            bad = int(values.numel() - finite.sum())
            largest = float(values.where(finite, 0).abs().max())
            if bad:
                self.fault = Fault(name, bad, values.numel(), largest)
            elif where is not None and self.passed and self.passed[-1][0] == where:
                self.passed[-1] = (where, max(largest, self.passed[-1][1]))
            elif where is not None:
                self.passed.append((where, largest))


def replay(capture: Capture, device: torch.device) -> Replay:
    """Repeat a step: forward and, unless a fault is found there, backward.

    It runs in this process alone and uncompiled, in the precision of the training. With fp16, the
    backward pass is left out: a gradient that overflows there only lowers the loss scale.

    Args:
        capture: the step.
        device: where to compute it.

    Raises:
        InvalidInput: the weights do not fit the network that this version builds.
    """
    spec, training = capture.spec, capture.spec.training
    network = build_network(spec, device)
    try:
        network.load_state_dict(capture.network)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"its weights do not fit this version's network: {reason}") from None
    network.freeze(capture.frozen)
    network.train()
    made = Replay()
    for name, parameter in network.named_parameters():
        made.look(f"the parameter {name}, before the step", [parameter])
    for number, view in enumerate(capture.views, start=1):
        made.look(f"view {number} of the batch", [view])
    watch = _Watch(network, made)
    views = tuple(
        _by_part(view, capture).to(device, memory_format=torch.channels_last)
        for view in capture.views
    )
    boxes = None if capture.boxes is None else _by_part(capture.boxes, capture).to(device)
    compute = partial(autocast, training.precision, device)
    random = RandomState(device)
    random.load_state_dict(capture.random)
    accumulation = None
    if training.accumulate > 1:
        accumulation = Accumulation(network, network, compute, random, training.accumulate)
        embeddings = accumulation.embeddings(views)
    else:
        with compute():
            embeddings = network(*views)
    loss = MethodLoss(
        spec.method, spec.expander.normalization, local=spec.augmentation.views.local > 0
    )
    terms = loss(*embeddings, boxes=boxes).terms
    made.values = {name: float(term.detach()) for name, term in terms.items()}
    total = terms["loss"]
    for name, term in terms.items():
        if term is not total:
            made.look(f"the loss's term {name}", [term])
    made.look("the loss", [total])
    if made.fault is not None or training.precision == "fp16":
        return made
    watch.follow("the loss", [total], set())
    if accumulation is None:
        total.backward()  # type: ignore[no-untyped-call]
    else:
        accumulation.backward(total)
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    made.look("the norm of all gradients", [torch.nn.utils.get_total_norm(gradients)])
    return made


class _Watch:
    """Looks at every tensor that modules exchange, forward and backward, as it is computed.

    Args:
        network: what is passed.
        replay: what looks.
    """

    def __init__(self, network: JointEmbedding, replay: Replay) -> None:
        self._replay = replay
        self._parameters = {each: name for name, each in network.named_parameters()}
        self._entered: dict[nn.Module, set[Node]] = {}
        """By module: what has made its inputs."""
        self._followed: set[Node] = set()
        """Held, because torch gives a node the same object only as long as there is one."""
        for name, module in network.named_modules():
            name = name or "the network"
            module.register_forward_pre_hook(partial(self._enter, name))
            module.register_forward_hook(partial(self._leave, name))

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> Any:
        tensors = list(_tensors(inputs))
        self._replay.look(f"the input of {name} (forward)", tensors)
        # Now: a module may overwrite its input, which is then its own.
        self._entered[module] = {each.grad_fn for each in tensors if each.grad_fn is not None}
        return inputs

    def _leave(self, name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        tensors = list(_tensors(outputs))
        # What contains others computes little itself.
        where = None if any(module.children()) else f"{name} (forward)"
        self._replay.look(f"the output of {name} (forward)", tensors, where)
        self.follow(name, tensors, self._entered[module])

    def follow(self, name: str, outputs: Iterable[Tensor], inputs: set[Node]) -> None:
        """Look at the gradients of what has been computed between ``inputs`` and ``outputs``.

        What has been followed before, as an inner module's, keeps that name.
        """
        nodes = [each.grad_fn for each in outputs if each.grad_fn is not None]
        seen = set(inputs)
        while nodes:
            node = nodes.pop()
            if node in seen:
                continue
            seen.add(node)
            following = [each for each, _ in node.next_functions]
            nodes += [each for each in following if each is not None]
            if node in self._followed:
                continue
            self._followed.add(node)
            targets = [self._parameter(each) for each in following]
            node.register_hook(partial(self._passes_back, name, node.name(), targets))
            parameter = self._parameter(node)
            arrives = f"at {name}" if parameter is None else f"at the parameter {parameter}"
            node.register_prehook(
                partial(
                    self._replay.look, f"the sum of gradients that arrives {arrives} (backward)"
                )
            )

    def _passes_back(
        self,
        name: str,
        operation: str,
        parameters: list[str | None],
        gradients: tuple[Tensor | None, ...],
        arrived: tuple[Tensor | None, ...],
    ) -> None:
        """Look at the gradients that a node of the graph has computed for those before it."""
        for gradient, parameter in zip(gradients, parameters, strict=False):
            if gradient is None:
                continue
            what = (
                f"the gradient that {name} passes back"
                if parameter is None
                else f"the gradient of the parameter {parameter}"
            )
            self._replay.look(f"{what} (backward, {operation})", [gradient], f"{name} (backward)")

    def _parameter(self, node: Node | None) -> str | None:
        """The parameter that a node gives its gradient to, cast or transposed or as it is."""
        while node is not None and node.name() in _UNCHANGED:
            node = node.next_functions[0][0]
        return self._parameters.get(getattr(node, "variable", None))  # type: ignore[arg-type]


def _by_part(rows: Tensor, capture: Capture) -> Tensor:
    """The rows of a batch, sorted by the part that each worker passed them in, then by worker."""
    parts = capture.spec.training.accumulate
    of_workers = rows.view(capture.workers, parts, -1, *rows.shape[1:])
    return of_workers.transpose(0, 1).reshape(rows.shape)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or returns."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
