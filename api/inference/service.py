"""Predictions as the routes see them. This module loads without torch, which enters with the first prediction."""

from collections.abc import Sequence

from api.inference.call_checks import CallChecks
from api.inference.micro_batcher import Computation, MicroBatcher
from api.inference.prediction_call import Prediction, PredictionCall
from api.inference.served_version import ServedVersion
from api.inference.statistics import InferenceStatistics
from api.inference.waiting_calls import IsDisconnected
from api.request_metrics import RequestMetrics
from store.models import ModelVersion
from store.settings import Settings
from store.unit_of_work import Store


class Inference:
    """Answers calls, keeps models loaded, and knows how much it was asked."""

    def __init__(self, store: Store, settings: Settings, metrics: RequestMetrics) -> None:
        checks = CallChecks(store, settings.budget)
        self._catalogue = checks.catalogue

        def computation() -> Computation:
            from api.inference.runtime import ModelRuntime  # noqa: PLC0415  # torch, with the first prediction

            return ModelRuntime(store, settings.torch_threads, settings.budget.inference_evaluations)

        self._batcher = MicroBatcher(checks, computation, metrics)

    def start(self) -> None:
        """Start the model thread."""
        self._batcher.start()

    def close(self) -> None:
        """Stop: what waits is refused, what runs is finished."""
        self._batcher.close()

    @property
    def statistics(self) -> InferenceStatistics:
        """What each version was asked."""
        return self._batcher.statistics

    def served(self, version: ModelVersion) -> ServedVersion:
        """Return what requests to a version are checked against."""
        return self._catalogue.of(version)

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

    async def forget(self, served: ServedVersion) -> bool:
        """Free a version's memory; return whether it was loaded."""
        return bool(await self._batcher.run_errand(lambda computation: computation.forget(served.version.id)))

    async def loaded(self) -> set[str]:
        """Return the ids of the versions in memory."""
        return set(await self._batcher.run_errand(lambda computation: computation.loaded()))
