"""What a running application is made of, and how a route gets hold of it."""

from dataclasses import dataclass
from typing import Annotated

import anyio
from celery import Celery
from fastapi import Depends, Request

from api.doorbell import Doorbell
from api.inference.service import Inference
from api.inference.warm_up import WarmUp
from api.inference_protocol.statistics import InferenceStatistics
from api.request_metrics import RequestMetrics
from store.settings import Settings
from store.unit_of_work import Store


@dataclass(frozen=True)
class Services:
    """The parts of one application, made and closed by its lifespan.

    Attributes:
        polling: how many threads may read the database for requests that wait; far fewer than
            there are threads for the others, so that any number may wait.
        uploads: how many data sets may be taken in at once; each needs room for its file.
    """

    settings: Settings
    store: Store
    sender: Celery
    doorbell: Doorbell
    inference: Inference
    metrics: RequestMetrics
    statistics: InferenceStatistics
    warm_up: WarmUp
    polling: anyio.CapacityLimiter
    uploads: anyio.CapacityLimiter


async def services_of(request: Request) -> Services:
    """Return the services of the application that serves ``request``."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


async def store_of(services: Annotated[Services, Depends(services_of)]) -> Store:
    """Return the application's store."""
    return services.store


ServicesOfApp = Annotated[Services, Depends(services_of)]
StoreOfApp = Annotated[Store, Depends(store_of)]
