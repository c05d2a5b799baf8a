"""``/v1/cluster``."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from vicreg_api.services import InjectedServices
from vicreg_platform.specs.needs import Bundle

router = APIRouter(prefix="/v1/cluster", tags=["cluster"])


class Amount(BaseModel):
    """An amount of resources."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, bundle: Bundle) -> Amount:
        """The amount in a bundle."""
        return cls(cpus=bundle.cpus, gpus=bundle.gpus)


class ClusterSchema(BaseModel):
    """What the Ray cluster has, or can grow to, and what of it is in use."""

    nodes: list[Amount]
    total: Amount
    used: Amount


@router.get("")
def get(services: InjectedServices) -> ClusterSchema:
    """The Ray cluster's resources. What is in use lags by a few seconds."""
    capacity = services.cluster.capacity()
    return ClusterSchema(
        nodes=[Amount.of(node) for node in capacity.nodes],
        total=Amount.of(capacity.total),
        used=Amount.of(capacity.used),
    )
