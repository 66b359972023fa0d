"""The one place where the protocol meets inference: samples and a solver in, arrays out."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray

from api.identifiers import find_version
from api.inference.prediction_request import PredictionRequest
from api.inference_protocol.solver_parameters import SolverWish
from api.problems import Problem
from api.routes.solver_choice import not_audited
from api.services import Services
from ode_core.audit.solver_choice import SolverChoice
from ode_core.specs import SolverSpec
from store.models import ModelVersion
from store.unit_of_work import Transaction


@dataclass(frozen=True)
class Prediction:
    """The answer for ``n`` samples.

    Attributes:
        solver: that made it.
        logits: ``(n, classes)`` in float64; NaN where the solve failed.
        probabilities: the same.
        labels: ``(n,)``; -1 where the solve failed.
        status: how each solve ended, in words.
        evaluations: of the vector field, ``(n,)``.
        accepted: steps, ``(n,)``.
        rejected: steps, ``(n,)``.
    """

    solver: SolverSpec
    logits: NDArray[Any]
    probabilities: NDArray[Any]
    labels: NDArray[Any]
    status: list[str]
    evaluations: NDArray[Any]
    accepted: NDArray[Any]
    rejected: NDArray[Any]

    @property
    def failures(self) -> int:
        """Samples whose solve failed."""
        return sum(status != "success" for status in self.status)


def served_version(tx: Transaction, model: str, reference: str | None) -> ModelVersion:
    """Return the version of a path: a number, or None for the latest; a 404 problem if there is none."""
    if reference is None:
        return find_version(tx, model, None)
    if re.fullmatch("[1-9][0-9]{0,9}", reference) and int(reference) < 2**31:
        return find_version(tx, model, int(reference))
    find_version(tx, model, None)  # an unknown model is the more important news
    raise Problem(
        404,
        "model_version_not_found",
        f"model {model} has no version {reference[:100]}: GET /v2/models/{model} lists its versions",
    )


def chosen_solver(tx: Transaction, version: ModelVersion, wish: SolverWish) -> SolverSpec | None:
    """Return the solver to predict with; None: the version's own.

    Raises:
        Problem: the cheapest is asked for, and no audit has compared solvers, or none of them agrees well enough.
    """
    if wish.agreement is None:
        return wish.solver
    stored = tx.solver_choices.of_version(version.id)
    if stored is None:
        raise not_audited(version)
    chosen = SolverChoice.from_json(stored.choice).cheapest(wish.agreement)
    if chosen.candidate is None:
        raise Problem(409, "no_solver_agrees", chosen.reason)
    return chosen.candidate.solver


async def predict(
    services: Services,
    version: ModelVersion,
    samples: NDArray[Any],
    solver: SolverSpec | None,
    is_disconnected: Callable[[], Awaitable[bool]],
) -> Prediction:
    """Predict with a version.

    Args:
        services: of the application.
        version: of a model.
        samples: ``(n, *input_shape)`` in the model's precision, finite.
        solver: None: the version's own.
        is_disconnected: whether the client has left.

    Raises:
        Problem: a budget is exceeded, or too many requests wait.
    """
    request = PredictionRequest(samples.tolist(), False, solver)
    task = await run_in_threadpool(services.inference.prepare, version, request)
    return _read(orjson.loads(await services.inference.run(task, is_disconnected)))


def _read(answer: dict[str, Any]) -> Prediction:
    rows = answer["predictions"]
    usable = np.array([row["label"] is not None for row in rows])
    classes = next((len(row["logits"]) for row in rows if row["logits"] is not None), 0)

    def shares(name: str) -> NDArray[Any]:
        values = np.full((len(rows), classes), np.nan)
        values[usable] = [row[name] for row in rows if row[name] is not None] or np.empty((0, classes))
        return values

    def counts(name: str) -> NDArray[Any]:
        return np.array([row[name] for row in rows], np.int64)

    return Prediction(
        solver=SolverSpec.model_validate(answer["solver"]),
        logits=shares("logits"),
        probabilities=shares("probabilities"),
        labels=np.array([-1 if row["label"] is None else row["label"] for row in rows], np.int64),
        status=[row["status"] for row in rows],
        evaluations=counts("nfe"),
        accepted=counts("accepted"),
        rejected=counts("rejected"),
    )
