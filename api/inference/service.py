"""Predictions as the routes see them. This module loads without torch, which enters when it is first needed."""

import asyncio
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from api.inference.call_checks import CallChecks
from api.inference.collector import spare_what_stays
from api.inference.micro_batcher import LOOK_SECONDS, Computation, MicroBatcher, stopping
from api.inference.prediction_call import Explanation, Prediction, PredictionCall
from api.inference.prediction_request import refuse_too_many_rows
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import IsDisconnected
from api.problems import Problem
from api.request_metrics import RequestMetrics
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store

if TYPE_CHECKING:
    from api.inference.explaining import Question

EXPLAINED_ROWS = 64
EXPLAINED_SECONDS = 5.0  # in which predictions share the interpreter with it
EXPLAINED_AT_ONCE = 1


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

        self._store, self._max_evaluations = store, settings.budget.inference_evaluations
        self._explaining = 0
        self._explainer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="explanation")
        self._closing = threading.Event()
        self._metrics = metrics
        self._batcher = MicroBatcher(self._checks, computation, metrics)

    def start(self) -> None:
        """Start the model thread."""
        self._batcher.start()

    def close(self) -> None:
        """Stop: what waits is refused, what runs is finished, but for an explanation, which is given up."""
        self._closing.set()
        self._explainer.shutdown()
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

    async def explain(
        self, call: PredictionCall, *, size: int, is_disconnected: IsDisconnected | None = None
    ) -> tuple[Prediction, Explanation]:
        """Return the answer to a call, and what a picture of it is drawn from, computed on a thread of its own.

        Raises:
            Problem: there are too many inputs or no plane to draw, or anything that a prediction raises.
        """
        if self._explaining >= EXPLAINED_AT_ONCE:
            raise Problem(
                503,
                "busy",
                "another request is being explained: try again in a moment",
                headers={"Retry-After": "2"},
            )
        self._explaining += 1
        try:
            prediction = await self.predict(call, size=size, is_disconnected=is_disconnected)
            served, solver = prediction.served, prediction.solver
            _require_plane(served)
            refuse_too_many_rows(len(prediction.outcome), EXPLAINED_ROWS)
            precision = served.spec.training.precision
            inputs = call.inputs.checked(served.input_shape, max_rows=EXPLAINED_ROWS, precision=precision)
            from api.inference.explaining import Question  # noqa: PLC0415  # with torch, which has predicted

            seconds = min(call.seconds, EXPLAINED_SECONDS)
            question = Question(served, inputs, solver, seconds, self._max_evaluations)
            return prediction, await self._explained(question, is_disconnected)
        finally:
            self._explaining -= 1

    async def _explained(self, question: "Question", is_disconnected: IsDisconnected | None) -> Explanation:
        """Return what the thread of explanations computes, which ends when nobody waits for it any more."""
        from api.inference.explaining import explained  # noqa: PLC0415  # as above
        from api.inference.runtime import Interrupted  # noqa: PLC0415

        given_up = threading.Event()

        def wanted() -> bool:
            return not (given_up.is_set() or self._closing.is_set())

        try:
            computed = asyncio.wrap_future(self._explainer.submit(explained, self._store, question, wanted))
        except RuntimeError:  # it is shut down
            raise stopping() from None
        try:
            while not (await asyncio.wait([computed], timeout=LOOK_SECONDS))[0]:
                if is_disconnected is not None and await is_disconnected():
                    self._metrics.observe_refusal("abandoned")
                    raise ClientDisconnect
            return await computed
        except Interrupted:
            raise stopping() from None
        finally:
            given_up.set()
            computed.cancel()

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
