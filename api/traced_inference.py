"""Predictions with a span of OpenTelemetry for each."""

from typing import Any

from opentelemetry.trace import Span, StatusCode, Tracer
from starlette.requests import ClientDisconnect

from api.inference.prediction_call import AutoSolver, Prediction, PredictionCall, mean_count
from api.inference.service import Inference
from api.problems import Problem
from api.request_guard import CLIENT_LEFT
from api.request_metrics import RequestMetrics
from store.settings import Settings
from store.unit_of_work import Store


class TracedInference(Inference):
    """Inference whose every prediction is a span ``predict``, of the request it came with.

    Args:
        store: where the models are.
        settings: bounds and threads.
        metrics: told about batches.
        tracer: makes the spans.
    """

    def __init__(self, store: Store, settings: Settings, metrics: RequestMetrics, tracer: Tracer) -> None:
        super().__init__(store, settings, metrics)
        self._tracer = tracer

    async def predict(self, call: PredictionCall, **options: Any) -> Prediction:
        """Return the answer to a call; see ``Inference``."""
        with self._tracer.start_as_current_span(
            "predict", attributes={"odeness.model": call.model}, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                prediction = await super().predict(call, **options)
            except Exception as error:
                _tell_failure(span, error)
                raise
            _tell_prediction(span, call, prediction)
            return prediction


def _tell_prediction(span: Span, call: PredictionCall, prediction: Prediction) -> None:
    outcome = prediction.outcome
    span.set_attributes(
        {
            "odeness.version": prediction.served.version.version,
            "odeness.solver": prediction.solver.label,
            "odeness.solver_chosen": isinstance(call.solver, AutoSolver),
            "odeness.rows": len(outcome),
            "odeness.batch_rows": prediction.execution.rows,
            "odeness.wait_seconds": prediction.waited_seconds,
            "odeness.nfe": mean_count(outcome.evaluations),
            "odeness.failures": int(outcome.failed.sum()),
        }
    )


def _tell_failure(span: Span, error: Exception) -> None:
    if isinstance(error, ClientDisconnect):
        code, status = "abandoned", CLIENT_LEFT
    elif isinstance(error, Problem):
        code, status = error.code, error.status_code
    else:
        code, status = type(error).__qualname__, 500
    span.set_attribute("error.type", code)
    if status >= 500:
        span.set_status(StatusCode.ERROR)
