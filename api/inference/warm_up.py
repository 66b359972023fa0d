"""Models that have to be in memory before the server says that it is ready. Without torch."""

import asyncio
import logging
from collections.abc import Sequence

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import SQLAlchemyError

from api.identifiers import find_version
from api.inference.served_version import ServedVersion
from api.inference.service import Inference
from api.problems import Problem
from store.models import ModelVersion
from store.unit_of_work import Store, Transaction

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


class WarmUp:
    """Loads models and solves with each once, and tries again until all are there.

    Args:
        names: ``name`` for the latest version, ``name@3`` or ``name@alias``.
        store: where they are.
        inference: what is to have them in memory.
        predicts_only: whether the process is to predict at once, with whatever model: torch is loaded first.
    """

    def __init__(self, names: tuple[str, ...], store: Store, inference: Inference, *, predicts_only: bool) -> None:
        self._store = store
        self._inference = inference
        self._loading = predicts_only
        self._problem = "what computes predictions is being loaded"
        self._missing = dict.fromkeys(names, "it is being loaded")

    def require_done(self) -> None:
        """Raise a 503 problem while a model is missing, or what computes predictions."""
        if self._loading:
            raise Problem(503, "models_not_loaded", f"{self._problem}: ask again in a moment")
        if not self._missing:
            return
        raise _not_loaded(list(self._missing.items()))

    def require_not_awaited(self, tx: Transaction, version: ModelVersion) -> None:
        """Raise a 503 problem while a version is one of the missing."""
        awaited = [(name, reason) for name, reason in list(self._missing.items()) if _means(tx, name, version)]
        if awaited:
            raise _not_loaded(awaited)

    async def run(self) -> None:
        """Load them all, however long it takes."""
        while self._loading:
            try:
                await self._inference.load()
            except Exception:  # of torch's start; who asks whether it is ready is told where to look
                log.exception("torch cannot be loaded")
                self._problem = "torch cannot be loaded, as the log says"
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._loading = False
        while self._missing:
            for name in list(self._missing):
                try:
                    await self._load(name)
                except Exception as error:
                    self._missing[name] = _why_missing(name, error)
                else:
                    del self._missing[name]
            if self._missing:
                await asyncio.sleep(RETRY_SECONDS)

    async def _load(self, name: str) -> None:
        served = await run_in_threadpool(self._find, name)
        await self._inference.warm([served])
        log.info("%s is loaded: version %d", name, served.version.version)

    def _find(self, name: str) -> ServedVersion:
        with self._store.reading() as tx:
            return self._inference.served(_named(tx, name))


def _why_missing(name: str, error: Exception) -> str:
    match error:
        case Problem():
            reason = str(error.detail)
        case SQLAlchemyError():
            reason = "the database does not answer"
        case _:
            log.error("%s is not loaded", name, exc_info=error)
            return "it cannot be loaded, as the log says"
    log.warning("%s is not loaded: %s", name, reason)
    return reason


def _named(tx: Transaction, name: str) -> ModelVersion:
    model, _, reference = name.partition("@")
    return find_version(tx, model, reference or None)


def _means(tx: Transaction, name: str, version: ModelVersion) -> bool:
    try:
        return name.partition("@")[0] == version.model and _named(tx, name).id == version.id
    except Problem:  # no such version or alias
        return False


def _not_loaded(missing: Sequence[tuple[str, str]]) -> Problem:
    which = "; ".join(f"{name}: {reason}" for name, reason in missing)
    return Problem(503, "models_not_loaded", f"models of ODENESS_WARM_MODELS are not loaded yet: {which}")
