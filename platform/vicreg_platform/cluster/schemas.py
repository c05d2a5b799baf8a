"""What the API answers about the cluster."""

from __future__ import annotations

from vicreg_platform.needs import Bundle
from vicreg_platform.schema import Schema


class Amount(Schema):
    """An amount of resources."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, bundle: Bundle) -> Amount:
        """The amount in a bundle."""
        return cls(cpus=bundle.cpus, gpus=bundle.gpus)


class ClusterSchema(Schema):
    """What the Ray cluster has, or can grow to, and what of it is in use."""

    nodes: list[Amount]
    total: Amount
    used: Amount
