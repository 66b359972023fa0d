"""The composition root of the API: ``create_app`` makes everything; nothing happens at import."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Literal

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from api.authentication import ApiKey, Authentication
from api.body_limit import BodyLimit
from api.connection_watch import STATE_KEY, ConnectionLimits
from api.content_coding import UncodedBodies
from api.dataset_upload import AT_ONCE
from api.doorbell import create_doorbell, create_sender
from api.inference.service import Inference
from api.inference.warm_up import WarmUp
from api.inference_protocol.statistics import InferenceStatistics
from api.prediction_path import PredictingApp
from api.problems import Problem, answer_problem, invalid, problem_response
from api.process_metrics import ProcessMetrics
from api.process_role import RoleProblems
from api.reconciler_thread import ReconcilerThread
from api.request_guard import RequestGuard
from api.request_metrics import RequestMetrics
from api.request_spans import RequestSpans, request_telemetry
from api.routes import (
    aliases,
    charts,
    datasets,
    explanations,
    health,
    inference_protocol,
    job_predictions,
    jobs,
    model_repository,
    models,
    pages,
    predictions,
    reports,
    results,
    solver_choice,
    solvers,
    studies,
)
from api.services import Services
from api.traced_inference import TracedInference
from api.validation_messages import answer_invalid_request
from store.errors import InvalidCursor
from store.reconciliation import reconcile
from store.schema_version import require_head
from store.settings import Settings
from store.tracing import Tracing, no_trace, tracing_of
from store.unit_of_work import Store

log = logging.getLogger(__name__)

POLLING_THREADS = 4

# In the order of the description.
_CONTROL = (jobs, job_predictions, reports, charts, studies, models, aliases)
_INFERENCE = (predictions, explanations, inference_protocol, model_repository)
_CATALOGUES = (solver_choice, results, solvers, datasets)
_ALWAYS = (health, pages)
_ROUTES: dict[str, tuple[ModuleType, ...]] = {
    "all": (*_CONTROL, *_INFERENCE, *_CATALOGUES, *_ALWAYS),
    "control": (*_CONTROL, *_CATALOGUES, *_ALWAYS),
    "inference": (*_INFERENCE, *_ALWAYS),
}


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; without settings, those of the environment.

    Connections and threads are made when it starts and closed when it stops. It refuses to start
    (``SchemaNotAtHead``) on a database that is not migrated.
    """
    settings = settings or Settings.load()
    together = ProcessMetrics.of_environment()
    metrics = RequestMetrics(together)
    tracing = tracing_of(settings, "odeness-api")
    key = ApiKey(None if settings.api_key is None else settings.api_key.get_secret_value())
    app = PredictingApp(
        title="odeness",
        summary="Train, test and serve neural ODEs, and tell whether a trained model really is one.",
        version="1",
        docs_url=None,  # these would load scripts from another host; /docs is a page of ours
        redoc_url=None,
        redirect_slashes=False,
        lifespan=functools.partial(
            _lifespan, settings=settings, metrics=metrics, key=key, together=together, tracing=tracing
        ),
        telemetry=request_telemetry(tracing),
        middleware=[
            *([] if tracing is None else [Middleware(RequestSpans)]),
            Middleware(RequestGuard, metrics=metrics),
            Middleware(Authentication, key=key),
            Middleware(
                BodyLimit,
                max_bytes=settings.max_body_bytes,
                max_upload_bytes=settings.max_upload_bytes,
                routes=[route for module in _ROUTES[settings.role] for route in module.router.routes],
            ),
            Middleware(UncodedBodies),
        ],
        exception_handlers={
            HTTPException: _problem_handler(settings.role),
            RequestValidationError: answer_invalid_request,
            InvalidCursor: _answer_invalid_cursor,
            DBAPIError: _answer_database_error,
            PoolTimeout: _answer_database_error,
        },
    )
    for module in _ROUTES[settings.role]:
        app.include_router(module.router)
    return app


def _problem_handler(
    role: Literal["all", "control", "inference"],
) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    if role == "all":
        return answer_problem
    elsewhere = [module.router for module in _ROUTES["all"] if module not in _ROUTES[role]]
    return RoleProblems(role, elsewhere).answer


@asynccontextmanager
async def _lifespan(
    app: PredictingApp,
    settings: Settings,
    metrics: RequestMetrics,
    key: ApiKey,
    together: ProcessMetrics | None,
    tracing: Tracing | None,
) -> AsyncIterator[dict[str, ConnectionLimits]]:
    store = Store.connect(
        settings.database,
        keep_checkpoints=settings.keep_checkpoints,
        trace_context=no_trace if tracing is None else tracing.context,
    )
    try:
        if together is not None:
            together.take_over_from_the_dead()
        if tracing is not None:
            tracing.start()
        await anyio.to_thread.run_sync(require_head, store.engine)
        sender = create_sender(settings)
        doorbell = create_doorbell(sender, store)
        inference = (
            Inference(store, settings, metrics)
            if tracing is None
            else TracedInference(store, settings, metrics, tracing.tracer)
        )
        reconciler = ReconcilerThread(lambda: reconcile(store, settings, doorbell.ring_now), settings.reconcile_seconds)
        warm_up = WarmUp(_names(settings.warm_models), store, inference, predicts_only=settings.role == "inference")
        metrics.watch_jobs(store)
        app.state.services = Services(
            settings,
            store,
            sender,
            doorbell,
            inference,
            metrics,
            InferenceStatistics(),
            warm_up,
            polling=anyio.CapacityLimiter(POLLING_THREADS),
            uploads=anyio.CapacityLimiter(AT_ONCE),
        )
        warming = None
        if settings.role != "control":
            inference.start()
            if tracing is None:
                app.take_short_way(app.state.services, key)
            warming = asyncio.create_task(warm_up.run())
        if settings.role != "inference":
            doorbell.start()
            reconciler.start()
        try:
            yield {STATE_KEY: ConnectionLimits.of(settings, metrics.observe_closed_connection)}
        finally:
            if settings.role != "inference":
                await anyio.to_thread.run_sync(reconciler.stop)
                await anyio.to_thread.run_sync(doorbell.close)
            if warming is not None:
                warming.cancel()
                await anyio.to_thread.run_sync(inference.close)
            sender.close()
    finally:
        store.close()
        if tracing is not None:
            await anyio.to_thread.run_sync(tracing.close)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


async def _answer_invalid_cursor(request: Request, error: Exception) -> Response:
    return problem_response(invalid("after", str(error)), request.scope)


async def _answer_database_error(request: Request, error: Exception) -> Response:
    """Answer that the database is away; an error in a statement of ours is unexpected and goes to the guard."""
    if not isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        raise error
    # The text of the error may show the statement or the host.
    log.warning("%s %s: database unavailable: %s", request.method, request.url.path, type(error).__name__)
    problem = Problem(
        503,
        "database_unavailable",
        "the database does not answer, or is too busy: try again in a moment",
        headers={"Retry-After": "2"},
    )
    return problem_response(problem, request.scope)
