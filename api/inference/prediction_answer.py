"""The answer to a prediction request of ``/v1``, as JSON. Without torch, and without pydantic: it is mostly numbers."""

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from api.inference.prediction_call import Certificate, Outcome, Prediction, mean_count


def answer_of(prediction: Prediction) -> bytes:
    """Return the answer as JSON; it holds no NaN."""
    outcome, version = prediction.outcome, prediction.served.version
    answer: dict[str, Any] = {
        "model": version.model,
        "version": version.version,
        "solver": prediction.solver.document(),
        "predictions": _rows(outcome),
        "nfe": mean_count(outcome.evaluations),
        "accepted": mean_count(outcome.accepted),
        "rejected": mean_count(outcome.rejected),
        "failures": outcome.failures,
    }
    if prediction.choice is not None:
        answer["solver_reason"] = prediction.choice.reason
    if outcome.certificate is not None:
        _add_certificates(answer, outcome, outcome.certificate)
    if outcome.trajectory is not None:
        for row, states in zip(answer["predictions"], outcome.trajectory, strict=True):
            row["trajectory"] = _finite_or_null(states)
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    rows = []
    for row in zip(
        outcome.labels.tolist(),
        outcome.probabilities.tolist(),
        outcome.logits.tolist(),
        outcome.statuses,
        outcome.evaluations.tolist(),
        outcome.accepted.tolist(),
        outcome.rejected.tolist(),
        strict=True,
    ):
        label, shares, values, status, evaluations, accepted, rejected = row
        usable = not status
        rows.append(
            {
                "label": label if usable else None,
                "probabilities": shares if usable else None,
                "logits": values if usable else None,
                "status": status.text,
                "remedy": None if usable else status.remedy,
                "nfe": evaluations,
                "accepted": accepted,
                "rejected": rejected,
            }
        )
    return rows


def _add_certificates(answer: dict[str, Any], outcome: Outcome, certificate: Certificate) -> None:
    answer["certificate"] = {
        "solver": certificate.solver.document(),
        "nfe": mean_count(certificate.evaluations),
        "held": int(holds(outcome, certificate).sum()),
    }
    for row, held, label, found, status, error, margin in zip(
        answer["predictions"],
        holds(outcome, certificate).tolist(),
        outcome.labels.tolist(),
        certificate.labels.tolist(),
        certificate.statuses,
        _finite_or_null(certificate.logit_error),
        _finite_or_null(certificate.margin),
        strict=True,
    ):
        row["certificate"] = {
            "holds": held,
            "flips": None if found < 0 or row["label"] is None else found != label,
            "logit_error": error,
            "margin": margin,
            "status": status.text,
            "remedy": status.remedy or None,
        }


def holds(outcome: Outcome, certificate: Certificate) -> NDArray[np.bool_]:
    """Return whose prediction is sure of its solver: the finer one says the same, and the errors are below the margin.

    Two logits may each be wrong by their error, so the margin has to be more than twice that.
    """
    sure = certificate.margin > 2 * certificate.logit_error
    held: NDArray[np.bool_] = ~outcome.failed & (certificate.labels == outcome.labels) & sure
    return held


def _finite_or_null(values: NDArray[np.float64]) -> Any:
    finite = np.isfinite(values)
    if finite.all():
        return values.tolist()
    written = values.astype(object)
    written[~finite] = None
    return written.tolist()
