"""Predictions as the routes see them. This module loads without torch, which enters with the first prediction."""

import sys
from collections.abc import Sequence

from api.inference.call_checks import CallChecks
from api.inference.collector import spare_what_stays
from api.inference.micro_batcher import Computation, MicroBatcher
from api.inference.prediction_call import Prediction, PredictionCall
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import IsDisconnected
from api.request_metrics import RequestMetrics
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store


class Inference:
    """Answers calls, keeps models loaded, and knows how much it was asked."""

    def __init__(self, store: Store, settings: Settings, metrics: RequestMetrics) -> None:
        self._checks = CallChecks(store, settings.budget)

        def computation() -> Computation:
            first = "torch" not in sys.modules
            from api.inference.runtime import ModelRuntime  # noqa: PLC0415  # torch, with the first prediction

            if first:
                spare_what_stays()
            return ModelRuntime(store, settings.torch_threads, settings.budget.inference_evaluations)

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
