"""Computes what a picture of predictions is drawn from, on a thread of its own. With torch.

It shares nothing with the model thread: the version is loaded anew, as it was trained and in float64.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from api.inference.loaded_models import LoadedModels
from api.inference.prediction_call import Explanation
from api.inference.runtime import Interrupted
from api.inference.served_version import ServedVersion
from api.problems import Problem
from ode_core.audit.explanation import explain
from ode_core.specs import SolverSpec
from store.unit_of_work import Store


@dataclass(frozen=True)
class Question:
    """What is to be explained.

    Attributes:
        served: the version.
        inputs: ``(n, *input_shape)`` in the model's precision.
        solver: the one to explain.
        seconds: that it may take.
        max_evaluations: bound on one input's evaluations of the field in one solve.
    """

    served: ServedVersion
    inputs: NDArray[Any]
    solver: SolverSpec
    seconds: float
    max_evaluations: int


def explained(store: Store, question: Question, wanted: Callable[[], bool]) -> Explanation:
    """Return how a version comes to its predictions; ``wanted`` is asked before each evaluation of the field.

    Raises:
        Problem: the weights cannot be used, or it takes more than the seconds there are.
        Interrupted: it is not wanted any more.
    """
    deadline = time.monotonic() + question.seconds

    def before_evaluation() -> None:
        if not wanted():
            raise Interrupted
        if time.monotonic() > deadline:
            raise Problem(
                422,
                "budget_exceeded",
                f"the exact solutions took longer than {question.seconds:.3g} s: explain fewer inputs at a time",
            )

    before_evaluation()
    model, exact = LoadedModels(store, before_evaluation).for_explanation(question.served)
    return explain(
        model.uncompiled(),
        exact,
        torch.from_numpy(question.inputs),
        question.solver,
        max_evaluations=question.max_evaluations,
    )
