"""Loaded models and the computation of predictions; the only place of the API with torch."""

import dataclasses
import time
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Any

import orjson
import torch
from torch import Tensor

from api.inference.service import PredictionTask
from api.problems import Problem
from api.request_metrics import RequestMetrics
from ode_core.models.classifier import Classifier, ClassifierOutput
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.weights import WeightsMismatch, load_classifier
from ode_core.solvers.status import SolveStatus
from store.errors import BlobCorrupt, NotFound
from store.unit_of_work import Store

CACHE_BYTES = 1024**3
ROWS_AT_ONCE = 512
NUMBERS_AT_ONCE = 2**20  # of states; the field's hidden layers take a few hundred times as much memory


class Interrupted(Exception):
    """A prediction was stopped while the field was evaluated."""


class ModelRuntime:
    """Loads model versions, keeps those used last, and predicts. For one thread.

    Args:
        store: the weights' source.
        torch_threads: threads of torch's own; None: one, as a worker on the same machine wants the others.
        metrics: told about each prediction.
        cache_bytes: weights kept loaded, at most; the model in use always is.
    """

    def __init__(
        self, store: Store, torch_threads: int | None, metrics: RequestMetrics, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._cache_bytes = cache_bytes
        self._loaded: OrderedDict[str, tuple[Classifier, int]] = OrderedDict()
        self._running: PredictionTask | None = None
        self._deadline = 0.0
        torch.set_num_threads(torch_threads or 1)

    @property
    def loaded_versions(self) -> list[str]:
        """Ids of the versions in memory, the one used longest ago first."""
        return list(self._loaded)

    def forget(self, version_ids: Collection[str]) -> None:
        """Drop versions from memory; the next prediction loads them again."""
        for version_id in version_ids:
            self._loaded.pop(version_id, None)

    def predict(self, task: PredictionTask, seconds: float) -> bytes:
        """Return the answer to a task as JSON.

        Raises:
            Problem: the weights cannot be read, or the prediction needs more memory or time than there is.
        """
        if task.abandoned.is_set():
            raise _too_long(0)
        model = self._model(task)
        self._running, self._deadline = task, time.monotonic() + seconds
        started = time.perf_counter()
        try:
            output = self._run(model, task)
        except Interrupted:
            raise _too_long(seconds) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
                raise Problem(
                    422, "budget_exceeded", "the prediction needs too much memory: send fewer inputs"
                ) from None
            raise
        finally:
            self._running = None
        statuses = [SolveStatus(status).text for status in output.solution.status.tolist()]
        evaluations = int(output.solution.evaluations.sum())
        self._metrics.observe_prediction(
            task.solver.method, Counter(statuses), evaluations, time.perf_counter() - started
        )
        return orjson.dumps(_answer(task, output))

    def _run(self, model: Classifier, task: PredictionTask) -> ClassifierOutput:
        rows = max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // torch.Size(model.state_shape).numel()))
        with torch.inference_mode():
            parts = [
                model.run(inputs, task.solver, max_evaluations=task.max_evaluations)
                for inputs in torch.split(torch.from_numpy(task.inputs), rows)
            ]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _model(self, task: PredictionTask) -> Classifier:
        version = task.version
        if version.id in self._loaded:
            self._loaded.move_to_end(version.id)
            return self._loaded[version.id][0]
        try:
            weights = self._store.read_blob(version.blob_id)
            model = load_classifier(task.spec.architecture, task.spec.dataset, weights)
            if task.modified_field is not None:
                model = with_modified_field(model, task.modified_field)
        except (BlobCorrupt, NotFound, WeightsMismatch) as error:
            raise Problem(
                500,
                "weights_damaged",
                f"the weights of {version.model} version {version.version} cannot be used: train it again",
            ) from error
        model.field.before_evaluation = self._interrupt
        model.compilation = "never"  # it would keep a request waiting for seconds
        self._loaded[version.id] = (model, len(weights))
        while len(self._loaded) > 1 and sum(size for _, size in self._loaded.values()) > self._cache_bytes:
            self._loaded.popitem(last=False)
        return model

    def _interrupt(self) -> None:
        """Stop a solve between two evaluations of the field."""
        assert self._running is not None
        if self._running.abandoned.is_set() or time.monotonic() > self._deadline:
            raise Interrupted


def _joined(parts: list[ClassifierOutput]) -> ClassifierOutput:
    solutions = [part.solution for part in parts]
    joined: dict[str, Any] = {
        name: torch.cat([getattr(solution, name) for solution in solutions])
        for name in ("final", "status", "evaluations", "accepted", "rejected", "last_step")
    }
    return ClassifierOutput(
        torch.cat([part.logits for part in parts]),
        dataclasses.replace(solutions[0], times=None, trajectory=None, **joined),
    )


def _answer(task: PredictionTask, output: ClassifierOutput) -> dict[str, Any]:
    solution = output.solution
    logits = output.logits.double()
    probabilities = logits.softmax(-1).tolist()
    finite = torch.isfinite(logits).all(-1)
    status = solution.status.masked_fill(solution.succeeded & ~finite, int(SolveStatus.NON_FINITE))
    predictions = []
    for row in zip(
        logits.argmax(-1).tolist(),
        probabilities,
        logits.tolist(),
        map(SolveStatus, status.tolist()),
        solution.evaluations.tolist(),
        solution.accepted.tolist(),
        solution.rejected.tolist(),
        strict=True,
    ):
        label, shares, values, outcome, evaluations, accepted, rejected = row
        usable = outcome is SolveStatus.SUCCESS
        predictions.append(
            {
                "label": label if usable else None,
                "probabilities": shares if usable else None,
                "logits": values if usable else None,
                "status": outcome.text,
                "remedy": None if usable else outcome.remedy,
                "nfe": evaluations,
                "accepted": accepted,
                "rejected": rejected,
            }
        )
    return {
        "model": task.version.model,
        "version": task.version.version,
        "solver": task.solver.document(),
        "predictions": predictions,
        "nfe": _mean(solution.evaluations),
        "accepted": _mean(solution.accepted),
        "rejected": _mean(solution.rejected),
        "failures": int((status != SolveStatus.SUCCESS).sum()),
    }


def _mean(counts: Tensor) -> float:
    """Return the mean; an integer where it is one."""
    total, count = int(counts.sum()), counts.numel()
    return total // count if total % count == 0 else total / count


def _too_long(seconds: float) -> Problem:
    return Problem(
        422,
        "budget_exceeded",
        f"the prediction was stopped after {seconds:g} s: send fewer inputs, or use fewer steps or looser tolerances",
    )
