"""Predictions as the routes see them: checked here, computed on one dedicated thread.

Several threads in torch at once fight over the interpreter and get slower with load; one does not.
This module loads without torch, which enters with the first prediction.
"""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from api.budget_problems import within_budget
from api.inference.prediction_request import PredictionRequest, check_inputs
from api.problems import Problem
from api.request_metrics import RequestMetrics
from ode_core.specs import (
    ModifiedFieldSpec,
    SolverSpec,
    TrainingJobSpec,
    check_solve_budget,
    evaluations_in_field,
    model_input_shape,
    model_state_shape,
)
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store

if TYPE_CHECKING:
    from api.inference.runtime import ModelRuntime

MAX_WAITING = 64
LONGEST_SECONDS = 60.0
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class PredictionTask:
    """A checked request.

    Attributes:
        version: the model version.
        spec: the training job that made it, or what an upload declared.
        modified_field: of a repair.
        inputs: ``(n, *input_shape)`` in the model's precision.
        solver: the one to use.
        max_evaluations: bound on one input's evaluations of the field.
        abandoned: set when nobody waits for the answer any more.
    """

    version: ModelVersion
    spec: TrainingJobSpec
    modified_field: ModifiedFieldSpec | None
    inputs: NDArray[Any]
    solver: SolverSpec
    max_evaluations: int
    abandoned: threading.Event = field(default_factory=threading.Event)


class Inference:
    """Runs predictions one after the other on a thread of its own."""

    def __init__(self, store: Store, settings: Settings, metrics: RequestMetrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._executor = ThreadPoolExecutor(1, "inference")
        self._runtime: ModelRuntime | None = None
        self._waiting = 0

    def close(self) -> None:
        """Stop: what waits is dropped, what runs is finished."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def prepare(self, version: ModelVersion, request: PredictionRequest) -> PredictionTask:
        """Check a request against the model version and the budget.

        Raises:
            Problem: it does not fit.
        """
        spec = TrainingJobSpec.model_validate(version.training_spec)
        budget = self._settings.budget
        modified = version.modified_field
        field = None if modified is None else ModifiedFieldSpec.model_validate(modified)
        solver = request.solver or SolverSpec.model_validate(version.solver)
        state_size = math.prod(model_state_shape(spec.architecture, spec.dataset.input_shape))
        with within_budget("solver"):
            check_solve_budget(
                solver,
                spec.architecture.end_time,
                budget.inference_evaluations,
                state_size,
                each=evaluations_in_field(field, state_size),
            )
        inputs = check_inputs(
            request,
            model_input_shape(spec.architecture, spec.dataset.input_shape),
            max_rows=budget.inference_rows,
            precision=spec.training.precision,
        )
        return PredictionTask(version, spec, field, inputs, solver, budget.inference_evaluations)

    async def run(self, task: PredictionTask, is_disconnected: Callable[[], Awaitable[bool]]) -> bytes:
        """Return the answer as JSON.

        Raises:
            Problem: too many requests wait, or the prediction takes too long.
        """
        if self._waiting >= MAX_WAITING:
            raise Problem(
                503,
                "busy",
                f"{MAX_WAITING} predictions already wait: try again in a moment",
                headers={"Retry-After": "1"},
            )
        self._waiting += 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._executor, self._predict, task)
            while True:
                done, _ = await asyncio.wait({future}, timeout=_LOOK_SECONDS)
                if done:
                    return future.result()
                if await is_disconnected():
                    future.cancel()
                    raise Problem(503, "abandoned", "the client has left")
        finally:
            task.abandoned.set()
            self._waiting -= 1

    def _predict(self, task: PredictionTask) -> bytes:
        if self._runtime is None:
            from api.inference.runtime import ModelRuntime  # noqa: PLC0415  # torch, with the first prediction

            self._runtime = ModelRuntime(self._store, self._settings.torch_threads, self._metrics)
        return self._runtime.predict(task, LONGEST_SECONDS)
