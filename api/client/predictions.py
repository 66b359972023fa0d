"""Predictions with a model, and which solver to take for them."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

from api.client.answers import Predictions
from api.client.charts import ChartFormat
from api.client.transport import Solver, Transport, as_json, part, version_path


class PredictionRequests(Transport):
    """Predictions of the caller's own inputs."""

    def predict(
        self,
        name: str,
        inputs: Any,
        solver: Solver | Literal["auto"] | None = None,
        *,
        version: int | str | None = None,
        **options: Any,
    ) -> Predictions:
        """Predict labels.

        Args:
            name: the model.
            inputs: a list of inputs (nested lists or an array), each of the model's ``input_shape``,
                in the data set's own units.
            solver: None: the one the version was trained with; ``auto``: the cheapest that an audit found to agree.
            version: a number or an alias; None: the latest.
            options: the other fields of the request: ``certify``, ``times``, ``deadline_seconds``, and for ``auto``
                ``agreement``, ``evidence``, ``by`` and ``otherwise``.

        Raises:
            ValueError: an input is not finite, which JSON cannot say.
        """
        path, body = _prediction(name, inputs, solver, version, options)
        return cast(Predictions, self._request("POST", path, json=body, repeatable=True).json())

    def explain(
        self,
        name: str,
        inputs: Any,
        solver: Solver | Literal["auto"] | None = None,
        *,
        version: int | str | None = None,
        format: ChartFormat = "png",
        scale: float = 2.0,
        **options: Any,
    ) -> bytes:
        """Return a picture of predictions as a file: where their states go, with the solver and along the exact flow.

        Args:
            name: a model whose states, or else inputs, have two numbers.
            inputs: at most 64 of them; see ``predict``.
            solver: see ``predict``.
            version: see ``predict``.
            format: an interactive page (``html``), a picture, or the data.
            scale: of a png: pixels a unit.
            options: see ``predict``.
        """
        path, body = _prediction(name, inputs, solver, version, options)
        query = {"format": format, "scale": scale}
        return self._request("POST", f"{path}/explain", params=query, json=body, repeatable=True).content

    def solver_choice(
        self,
        name: str,
        version: int | str,
        *,
        agreement: float = 0.999,
        evidence: Literal["estimate", "lower_bound"] = "estimate",
        by: Literal["evaluations", "time"] = "evaluations",
    ) -> dict[str, Any]:
        """Return the cheapest solver that agrees well enough, and why: its ``solver`` may be given to ``predict``.

        Args:
            name: the model.
            version: whose latest audit is asked: a number, an alias, or ``latest``.
            agreement: on which share of the samples the solver has to agree.
            evidence: what has to reach it: the estimate, or the lower end of its 95 % interval.
            by: what is to be the least: evaluations of the field, or the time that the audit measured.

        Raises:
            ProblemError: ``not_audited`` where no audit has finished.
        """
        query = {"agreement": agreement, "evidence": evidence, "by": by}
        return cast(dict[str, Any], self._get(f"{version_path(name, version)}/solver-choice", query))


def _prediction(
    name: str, inputs: Any, solver: Any, version: int | str | None, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return path and body of a request for predictions."""
    place = f"/v1/models/{part(name)}" if version is None else version_path(name, version)
    numbers = inputs.tolist() if hasattr(inputs, "tolist") else inputs
    _require_finite("inputs", numbers)
    asked = solver if solver is None or isinstance(solver, str) else as_json(solver)
    return f"{place}/predict", {**options, "inputs": numbers, "solver": asked}


def _require_finite(place: str, numbers: Any) -> None:
    if isinstance(numbers, float) and not math.isfinite(numbers):
        raise ValueError(f"{place} is {numbers}: a prediction needs finite numbers; replace it or leave this input out")
    if isinstance(numbers, list | tuple):
        for position, part in enumerate(numbers):
            _require_finite(f"{place}[{position}]", part)
