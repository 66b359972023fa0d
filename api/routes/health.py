"""Whether the server is alive and ready, and its measurements."""

import importlib.metadata
import logging

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api.doorbell import check_broker
from api.openapi import described, problem_responses
from api.query_parameters import refuse_unknown_query
from api.readiness import require_ready
from api.schemas.health import Alive, Ready
from api.services import ServicesOfApp

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"], dependencies=[Depends(refuse_unknown_query)])


@router.get("/healthz", responses=problem_responses(open_to_all=True), summary="Alive")
async def healthz() -> Alive:
    """Answer that the process runs; does nothing else."""
    return Alive(status="ok", version=importlib.metadata.version("odeness"))


@router.get("/readyz", responses=problem_responses(open_to_all=True), summary="Ready to serve")
def readyz(services: ServicesOfApp) -> Ready:
    """Answer whether the database can be used and the models asked for are loaded; a broker away only delays work."""
    require_ready(services)
    if services.settings.role == "inference":
        return Ready(status="ready", database="ok", broker="unused")
    try:
        check_broker(services.sender)
    except Exception as error:  # whatever the broker's client raises
        log.warning("the broker does not answer: %s", error)
        return Ready(status="ready", database="ok", broker="degraded")
    return Ready(status="ready", database="ok", broker="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses=described(200, "Prometheus' text format", "text/plain") | problem_responses(),
    summary="Measurements for Prometheus",
)
def metrics(services: ServicesOfApp) -> Response:
    """Return the measurements of all processes of this server, and the number of jobs by status."""
    return Response(services.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
