"""The states of torch's global generators, from which layers draw at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class RandomState:
    """The states of the generators of the host and of a device.

    Args:
        device: what is trained on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, Any]:
        """The states now."""
        state = {"torch": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, as far as this device has such generators."""
        torch.set_rng_state(state["torch"])
        if "cuda" in state and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)
