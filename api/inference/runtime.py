"""What the model thread computes; with ``loaded_models`` and ``explaining`` the only place of the API with torch."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from api.inference import prediction_call
from api.inference.loaded_models import CACHE_BYTES, LoadedModels
from api.inference.micro_batcher import joined_inputs, stopped_after, too_late
from api.inference.prediction_call import NO_LABEL, Certificate, Outcome
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import CheckedCall
from api.problems import Problem
from ode_core.audit.finer_solver import error_per_difference, finer_solver
from ode_core.models.classifier import ClassifierOutput
from ode_core.models.steady_classifier import SteadyClassifier
from ode_core.solvers.status import SolveStatus
from ode_core.specs import SolverSpec
from store.unit_of_work import Store

ROWS_AT_ONCE = 512
NUMBERS_AT_ONCE = 2**20  # of states; the field's hidden layers take a few hundred times as much memory

_STATUSES = {int(status): status for status in SolveStatus}


class Interrupted(Exception):
    """A computation was stopped while the field was evaluated."""


class ModelRuntime:
    """Computes batches. For one thread.

    Args:
        store: the weights' source.
        torch_threads: threads of torch's own; None: one, as a worker on the same machine wants the others.
        max_evaluations: bound on one input's evaluations of the field.
        cache_bytes: weights kept loaded, at most.
    """

    def __init__(
        self, store: Store, torch_threads: int | None, max_evaluations: int, *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.models = LoadedModels(store, self._before_evaluation, cache_bytes=cache_bytes)
        self._max_evaluations = max_evaluations
        self._go_on: Callable[[], bool] | None = None
        torch.set_num_threads(torch_threads or 1)

    def rows_at_once(self, served: ServedVersion, times: int) -> int:
        """Return the most rows of one batch whose states are wanted at so many times, or at none."""
        return max(1, min(ROWS_AT_ONCE, NUMBERS_AT_ONCE // (served.state_size * max(1, times))))

    def compute(self, batch: Sequence[CheckedCall], go_on: Callable[[], bool]) -> Outcome:
        """Return what the rows of a batch give, in their order; ``go_on`` is asked before each evaluation.

        Raises:
            Problem: the weights cannot be used, or the computation needs more memory or time than there is.
        """
        first = batch[0]
        if not go_on():
            raise too_late(first.ticket)
        model = self.models.get(first.served)
        most = self.rows_at_once(first.served, len(first.ticket.call.times))
        parts = torch.split(torch.from_numpy(joined_inputs(batch)), most)
        self._go_on = go_on
        try:
            with torch.inference_mode():
                return _joined([self._part(model, first, inputs) for inputs in parts])
        except Interrupted:
            raise too_late(max((call.ticket for call in batch), key=lambda ticket: ticket.expires)) from None
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
                raise Problem(
                    422, "budget_exceeded", "the prediction needs too much memory: send fewer inputs"
                ) from None
            raise
        finally:
            self._go_on = None

    def warm(self, served: ServedVersion) -> float:
        """Load a version and solve once; return the seconds that took.

        Raises:
            Problem: the weights cannot be used, or the solve takes longer than a prediction may.
        """
        started = time.perf_counter()
        model = self.models.get(served)
        self._go_on = lambda: time.perf_counter() - started <= prediction_call.LONGEST_SECONDS
        try:
            with torch.inference_mode():
                nothing = torch.zeros((1, *served.input_shape), dtype=model.model.dtype)
                model.run(nothing, served.own_solver, max_evaluations=self._max_evaluations)
        except Interrupted:
            raise stopped_after(prediction_call.LONGEST_SECONDS) from None
        finally:
            self._go_on = None
        return time.perf_counter() - started

    def forget(self, version_id: str) -> bool:
        """Free a version's memory; return whether it was loaded."""
        return self.models.forget(version_id)

    def _part(self, model: SteadyClassifier, call: CheckedCall, inputs: Tensor) -> Outcome:
        asked = call.ticket.call
        times = torch.tensor(asked.times, dtype=torch.float64) if asked.times else None
        output = model.run(
            inputs, call.solver, times=times, outputs="interpolate", max_evaluations=self._max_evaluations
        )
        outcome = _outcome(output)
        return outcome if not asked.certify else self._certified(model, call.solver, inputs, outcome)

    def _certified(self, model: SteadyClassifier, solver: SolverSpec, inputs: Tensor, outcome: Outcome) -> Outcome:
        finer = finer_solver(solver, model.model.end_time)
        check = _outcome(model.run(inputs, finer, max_evaluations=self._max_evaluations))
        difference = np.abs(outcome.logits - check.logits).max(axis=1)
        leading = np.sort(outcome.logits, axis=1)[:, -2:]
        certificate = Certificate(
            solver=finer,
            labels=np.where(check.failed, NO_LABEL, check.labels),
            statuses=check.statuses,
            logit_error=difference * error_per_difference(solver),
            margin=leading[:, 1] - leading[:, 0],
            evaluations=check.evaluations,
        )
        return Outcome(**(vars(outcome) | {"certificate": certificate}))

    def _before_evaluation(self) -> None:
        """Stop a solve between two evaluations of the field."""
        if self._go_on is not None and not self._go_on():
            raise Interrupted


def _outcome(output: ClassifierOutput) -> Outcome:
    solution = output.solution
    logits = output.logits.double()
    finite = torch.isfinite(logits).all(-1)
    status = solution.status.masked_fill(solution.succeeded & ~finite, int(SolveStatus.NON_FINITE))
    trajectory = solution.trajectory
    return Outcome(
        labels=logits.argmax(-1).numpy(),
        probabilities=logits.softmax(-1).numpy(),
        logits=logits.numpy(),
        statuses=[_STATUSES[number] for number in status.tolist()],
        evaluations=solution.evaluations.numpy(),
        accepted=solution.accepted.numpy(),
        rejected=solution.rejected.numpy(),
        trajectory=None if trajectory is None else trajectory.transpose(0, 1).double().numpy(),
    )


def _joined(parts: Sequence[Outcome]) -> Outcome:
    if len(parts) == 1:
        return parts[0]

    def together(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Outcome(
        statuses=[status for part in parts for status in part.statuses],
        trajectory=None if parts[0].trajectory is None else together("trajectory"),
        certificate=_joined_certificates([part.certificate for part in parts if part.certificate is not None]),
        **{
            name: together(name)
            for name in ("labels", "probabilities", "logits", "evaluations", "accepted", "rejected")
        },
    )


def _joined_certificates(parts: Sequence[Certificate]) -> Certificate | None:
    if not parts:
        return None
    return Certificate(
        solver=parts[0].solver,
        statuses=[status for part in parts for status in part.statuses],
        **{
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in ("labels", "logit_error", "margin", "evaluations")
        },
    )
