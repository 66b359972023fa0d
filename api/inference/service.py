"""Predictions as the routes see them. This module loads without torch, which enters when it is first needed."""

import sys
from collections.abc import Sequence

from api.inference.call_checks import CallChecks
from api.inference.collector import spare_what_stays
from api.inference.micro_batcher import Computation, MicroBatcher
from api.inference.prediction_call import Explanation, Prediction, PredictionCall
from api.inference.prediction_request import refuse_too_many_rows
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import IsDisconnected
from api.problems import Problem
from api.request_metrics import RequestMetrics
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store

EXPLAINED_ROWS = 64
EXPLAINED_SECONDS = 5.0  # in which the thread computes no predictions
EXPLAINED_AT_ONCE = 4


class Inference:
    """Answers calls, keeps models loaded, and knows how much it was asked."""

    def __init__(self, store: Store, settings: Settings, metrics: RequestMetrics) -> None:
        self._checks = CallChecks(store, settings.budget)

        def computation() -> Computation:
            first = "torch" not in sys.modules
            from api.inference.runtime import ModelRuntime  # noqa: PLC0415  # torch, when it is first needed

            if first:
                spare_what_stays()
            return ModelRuntime(store, settings.torch_threads, settings.budget.inference_evaluations)

        self._explaining = 0
        self._batcher = MicroBatcher(self._checks, computation, metrics)

    def start(self) -> None:
        """Start the model thread."""
        self._batcher.start()

    def close(self) -> None:
        """Stop: what waits is refused, what runs is finished."""
        self._batcher.close()
        self._checks.close()

    def served(self, version: ModelVersion) -> ServedVersion:
        """Return what requests to a version are checked against."""
        return ServedVersion.of(version)  # the catalogue belongs to the model thread

    async def predict(
        self, call: PredictionCall, *, size: int, is_disconnected: IsDisconnected | None = None
    ) -> Prediction:
        """Return the answer to a call; ``size`` is about how many bytes it takes.

        Raises:
            Problem: it does not fit its model, too much waits already, or it takes too long.
        """
        return await self._batcher.predict(call, size, is_disconnected)

    async def explain(self, call: PredictionCall, *, size: int) -> tuple[Prediction, Explanation]:
        """Return the answer to a call, and what a picture of it is drawn from.

        Raises:
            Problem: there are too many inputs or no plane to draw, or anything that a prediction raises.
        """
        if self._explaining >= EXPLAINED_AT_ONCE:
            raise Problem(
                503,
                "busy",
                "others are being explained: try again in a moment",
                headers={"Retry-After": "2"},
            )
        self._explaining += 1
        try:
            prediction = await self.predict(call, size=size)
            served, solver = prediction.served, prediction.solver
            _require_plane(served)
            refuse_too_many_rows(len(prediction.outcome), EXPLAINED_ROWS)
            precision = served.spec.training.precision
            inputs = call.inputs.checked(served.input_shape, max_rows=EXPLAINED_ROWS, precision=precision)
            seconds = min(call.seconds, EXPLAINED_SECONDS)
            explanation = await self._batcher.run_errand(
                lambda computation: computation.explain(served, inputs, solver, seconds)
            )
        finally:
            self._explaining -= 1
        return prediction, explanation

    async def load(self) -> None:
        """Load torch, so that the first prediction need not wait for that.

        Raises:
            ImportError, OSError: it cannot be loaded.
        """
        await self._batcher.run_errand(lambda computation: None)  # for which there has to be one

    async def warm(self, versions: Sequence[ServedVersion]) -> None:
        """Load versions and solve with each once.

        Raises:
            Problem: the weights of one cannot be used.
        """

        def warm_all(computation: Computation) -> None:
            for served in versions:
                computation.warm(served)

        await self._batcher.run_errand(warm_all)

    async def forget(self, version_ids: Sequence[str]) -> None:
        """Free the memory of versions; the next request for one loads it again."""

        def forget_all(computation: Computation) -> None:
            for version_id in version_ids:
                computation.forget(version_id)

        await self._batcher.run_errand(forget_all)


def _require_plane(served: ServedVersion) -> None:
    if not served.has_plane:
        raise Problem(
            422,
            "no_plane",
            f"the states of {served.version.model} have the shape {list(served.state_shape)} and its inputs "
            f"{list(served.input_shape)}: only what has two numbers is a point of a plane, which can be drawn",
        )
