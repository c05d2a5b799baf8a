"""``torch.compile``, falling back to the plain module if compiling fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Compiled:
    """A module that is compiled at its first call, or called uncompiled if that fails.

    The module's own errors are raised unchanged.

    Args:
        module: what to compile.
        warn: called with one line that says why the module was not compiled.
    """

    def __init__(self, module: nn.Module, warn: Callable[[str], None]) -> None:
        # Importing the compiler takes seconds, and only a run that compiles needs it.
        from torch._dynamo.exc import TorchDynamoException

        self._failure = TorchDynamoException
        self._module = module
        self._warn = warn
        self._call: Callable[..., Any] = torch.compile(module)

    def __call__(self, *arguments: Any) -> Any:
        """The module's output."""
        try:
            return self._call(*arguments)
        except self._failure as error:
            self._call = self._module
            output = self._module(*arguments)  # raises if the fault is the module's
            reason = " ".join(str(error).split("\n", 2)[:2])
            self._warn(
                "training.compile: the network runs uncompiled because torch.compile failed: "
                f"{type(error).__name__}: {reason[:200]}"
            )
            return output
