"""The control plane: specs, jobs, the dispatcher, and the client of the VICReg platform."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """``__version__``, looked up when asked for: importlib.metadata is slow to import."""
    if name == "__version__":
        from importlib.metadata import version

        return version("vicreg-platform")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
