"""What the API answers about the cluster."""

from __future__ import annotations

from vicreg_platform.cluster import Node
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
    """What the Ray cluster has, or can grow to, what of it is in use, and what jobs wait for."""

    nodes: list[Amount]
    total: Amount
    used: Amount
    waited_for: Amount = Amount(cpus=0.0, gpus=0.0)
    """What all queued jobs need to start, together: of a sweep, one training."""


class DeviceSchema(Schema):
    """A GPU."""

    name: str
    utilization: float | None
    """In percent."""
    memory_used: int | None
    """In bytes."""
    memory_total: int | None


class Placed(Schema):
    """What a job occupies of a node."""

    job_id: str
    attempt: int
    cpus: float
    gpus: float


class NodeSchema(Schema):
    """A machine of the cluster."""

    id: str
    name: str
    total: Amount
    used: Amount
    """What is reserved, whether or not a process uses it."""
    cpu_percent: float | None
    memory_used: int | None
    """In bytes."""
    memory_total: int | None
    devices: list[DeviceSchema]
    jobs: list[Placed]

    @classmethod
    def of(cls, node: Node) -> NodeSchema:
        """The answer for a node; what others than the platform have submitted is left out."""
        placed = []
        for submission, bundle in sorted(node.placed.items()):
            job_id, _, attempt = submission.rpartition("-")
            if job_id and attempt.isdecimal():
                placed.append(
                    Placed(job_id=job_id, attempt=int(attempt), cpus=bundle.cpus, gpus=bundle.gpus)
                )
        return cls(
            id=node.id,
            name=node.machine.name,
            total=Amount.of(node.total),
            used=Amount.of(node.used),
            cpu_percent=node.machine.cpu_percent,
            memory_used=node.machine.memory_used,
            memory_total=node.machine.memory_total,
            devices=[DeviceSchema(**vars(device)) for device in node.machine.devices],
            jobs=placed,
        )
