"""The control plane: specs, jobs, the dispatcher, and the client of the VICReg platform."""

from importlib.metadata import version

__version__ = version("vicreg-platform")
