"""What the routes use: created once, and injected by FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from vicreg_platform.cluster import Cluster
from vicreg_platform.cluster.ray_jobs import RayCluster
from vicreg_platform.database import Database
from vicreg_platform.dispatch.service import QueueService
from vicreg_platform.jobs.control import JobControl
from vicreg_platform.jobs.service import JobService
from vicreg_platform.keys.service import KeyService
from vicreg_platform.schedules.service import ScheduleService
from vicreg_platform.settings import Settings
from vicreg_platform.tracking import Tracking


@dataclass(frozen=True)
class Services:
    """The database, the cluster, MLflow, and the use cases on them."""

    database: Database
    cluster: Cluster
    tracking: Tracking
    jobs: JobService
    control: JobControl
    queue: QueueService
    schedules: ScheduleService
    keys: KeyService
    storage: str
    """The workers'."""

    @classmethod
    def of(cls, settings: Settings) -> Services:
        """The services that the settings describe."""
        database = Database(settings.database_url)
        jobs = JobService(database, settings.data_root, settings.mlflow_public_url)
        return cls(
            database=database,
            cluster=RayCluster(settings.ray_url, settings.ray_token, settings.ray_nodes),
            tracking=Tracking(settings.mlflow_url),
            jobs=jobs,
            control=JobControl(database, jobs),
            queue=QueueService(database, settings),
            schedules=ScheduleService(database, jobs),
            keys=KeyService(database),
            storage=settings.storage,
        )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


InjectedServices = Annotated[Services, Depends(_services)]
