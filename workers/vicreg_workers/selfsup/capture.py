"""A step that went wrong, as a file: what repeats it without data, run or checkpoint.

The step's forward and backward pass depend on the weights, the views, the precision and, for layers
that draw at random, on the generators. All are those before the step: an update that would spoil
the weights is not made. BatchNorm's running statistics may be those of a few steps later: in
training mode, nothing is computed from them, and those of frozen backbones do not change.

With one worker on the same device, the step is repeated exactly, as far as the device computes the
same twice. With several, the views are of all workers, and the statistics and the loss of their
whole batch are the same up to rounding; layers that draw at random draw as the first worker's.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vicreg_platform.specs import PretrainSpec
from vicreg_platform.specs.stored import VERSION, Unreadable, read_spec
from vicreg_workers.selfsup.errors import InvalidInput

CAPTURE = "capture.pt"
FORMAT = 1
"""Raise it when a field of ``Capture`` is added, renamed or removed."""


@dataclass(frozen=True)
class Capture:
    """A step whose loss or gradient is not finite."""

    spec: PretrainSpec
    step: int
    """Its number, from 1."""
    values: dict[str, float]
    """``loss``, its terms and the norm of the ``gradient``, as the worker that noticed had them."""
    workers: int
    """How many trained together."""
    device: str
    """The type of the device: cpu or cuda."""
    environment: dict[str, str]
    """The versions of the libraries, and the GPU."""
    frozen: bool
    """Whether ``training.freeze_epochs`` had not passed."""
    network: dict[str, Tensor]
    """The network's state, with the weights before the step."""
    views: tuple[Tensor, ...]
    """Each ``[N, 3, S, S]`` float32 on the CPU: the whole batch, by worker."""
    boxes: Tensor | None
    """With method vicregl, what the views show, ``[N, V, 5]``: see ``data.steps.Cropped``."""
    random: dict[str, Tensor]
    """The first worker's ``RandomState`` before the step."""

    def save(self, file: BinaryIO) -> None:
        """Write it, as ``torch.load`` with ``weights_only=True`` reads it."""
        content = vars(self) | {
            "format": FORMAT,
            "spec": self.spec.model_dump(mode="json"),
            "spec_version": VERSION,
        }
        torch.save(content, file)

    @classmethod
    def load(cls, file: BinaryIO) -> Capture:
        """Read what ``save`` has written; its tensors are on the CPU.

        Raises:
            InvalidInput: it is not a capture, it is damaged, or another version wrote it.
        """
        try:
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever it meets in a foreign or damaged file
            raise InvalidInput(f"it is damaged, or not a capture ({_first_line(error)})") from None
        if not isinstance(content, dict) or "format" not in content:
            raise InvalidInput("it is not a capture")
        if content.pop("format") != FORMAT:
            raise InvalidInput("another version of the platform wrote it: replay it with that one")
        spec = read_spec(content.pop("spec"), content.pop("spec_version"))
        if isinstance(spec, Unreadable):
            raise InvalidInput(f"its spec cannot be read: {spec.reason}")
        assert isinstance(spec, PretrainSpec)
        return cls(spec=spec, **content)


def environment(device: torch.device) -> dict[str, str]:
    """What this process computes with: the versions of its libraries, and its GPU."""
    libraries = ("vicreg-platform", "torch", "torchvision", "timm")
    found = {name: version(name) for name in libraries}
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
