"""The HTTP API of the VICReg platform."""
