"""``torch.compile``, with the plain module where it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Compiled:
    """A module compiled at its first call, and called as it is where that fails.

    Args:
        module: what to compile.
        warn: told in one line why it was not compiled.
    """

    def __init__(self, module: nn.Module, warn: Callable[[str], None]) -> None:
        self._module = module
        self._warn = warn
        self._call: Callable[..., Any] = torch.compile(module)

    def __call__(self, *arguments: Any) -> Any:
        """The module's output."""
        if self._call is self._module:
            return self._module(*arguments)
        try:
            return self._call(*arguments)
        except Exception as error:
            # The compiler reports failures by many exceptions; the module's own comes again.
            self._call = self._module
            output = self._module(*arguments)
            lines = str(error).strip().splitlines() or [""]
            self._warn(
                "training.compile: the network runs uncompiled, because torch.compile failed: "
                f"{type(error).__name__}: {lines[0][:200]}"
            )
            return output
