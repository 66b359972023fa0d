"""Writes the answers to infer requests: JSON, with the bytes of binary outputs behind it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from api.inference.prediction_answer import holds
from api.inference.prediction_call import NO_LABEL, Certificate, Outcome, Prediction, mean_count
from api.inference_protocol.request import HEADER_LENGTH, RequestedOutput
from api.inference_protocol.signature import CERTIFICATE_OUTPUTS, DATATYPE_OF, TRAJECTORY
from api.inference_protocol.tensors import Tensor, texts, to_bytes, to_json
from ode_core.specs.solver import Precision


def infer_answer(
    prediction: Prediction,
    wanted: Sequence[RequestedOutput],
    request_id: str | None,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of an answer.

    Args:
        prediction: for all samples.
        wanted: the outputs, in order.
        request_id: to be repeated; None: there was none.
    """
    version, precision = prediction.served.version, prediction.served.spec.training.precision
    document: dict[str, Any] = {"model_name": version.model, "model_version": str(version.version)}
    if request_id is not None:
        document["id"] = request_id
    document["parameters"] = solver_facts(prediction)
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output in wanted:
        tensor = _output(output.name, prediction.outcome, precision)
        description: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if output.binary:
            tail.append(to_bytes(tensor))
            description["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            description["data"] = to_json(tensor)
        described.append(description)
    document["outputs"] = described
    content = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not tail:
        return content, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(content))}
    return b"".join((content, *tail)), headers


def _output(name: str, outcome: Outcome, precision: Precision) -> Tensor:
    if name == "status":
        return texts(name, [status.text for status in outcome.statuses])
    if name == "nfe":
        return Tensor(name, "INT64", outcome.evaluations)
    if name == "label":
        return Tensor(name, "INT64", np.where(outcome.failed, NO_LABEL, outcome.labels))
    if name == TRAJECTORY:
        assert outcome.trajectory is not None
        return Tensor(name, DATATYPE_OF[precision], outcome.trajectory.astype(precision))
    if name in CERTIFICATE_OUTPUTS:
        assert outcome.certificate is not None
        return _of_certificate(name, outcome, outcome.certificate, precision)
    values = (outcome.probabilities if name == "probabilities" else outcome.logits).astype(precision)
    if outcome.failures:
        values[outcome.failed] = np.nan
    return Tensor(name, DATATYPE_OF[precision], values)


def _of_certificate(name: str, outcome: Outcome, certificate: Certificate, precision: Precision) -> Tensor:
    if name == "holds":
        return Tensor(name, "BOOL", holds(outcome, certificate))
    if name == "finer_label":
        return Tensor(name, "INT64", certificate.labels)
    if name == "finer_status":
        return texts(name, [status.text for status in certificate.statuses])
    values = certificate.logit_error if name == "logit_error" else certificate.margin
    return Tensor(name, DATATYPE_OF[precision], values.astype(precision))


def solver_facts(prediction: Prediction) -> dict[str, str | int | float]:
    """Return the solver and what it cost, as the protocol's parameters: texts and numbers.

    ``nfe``, ``accepted`` and ``rejected`` are means over the samples. A solver that was chosen comes with the reason,
    certificates with what they took.
    """
    solver = prediction.solver.document()
    outcome = prediction.outcome
    failures = outcome.failures
    status = "success" if not failures else "failed" if failures == len(outcome) else "partial"
    facts = {
        "solver": solver.pop("method"),
        **solver,
        "nfe": mean_count(outcome.evaluations),
        "accepted": mean_count(outcome.accepted),
        "rejected": mean_count(outcome.rejected),
        "failures": failures,
        "status": status,
    }
    if prediction.choice is not None:
        facts["solver_reason"] = prediction.choice.reason
    if outcome.certificate is not None:
        facts["finer_solver"] = outcome.certificate.solver.label
        facts["finer_nfe"] = mean_count(outcome.certificate.evaluations)
        facts["held"] = int(holds(outcome, outcome.certificate).sum())
    return facts
