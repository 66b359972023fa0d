"""A job that predicts a data set and a request for the same rows give the same bits, on a CPU."""

from typing import Any

import numpy as np
import pytest
import torch

from ode_core.datasets.load import load_dataset
from ode_core.models.prediction_columns import unpack
from ode_core.specs import DigitsSpec, TrainingJobSpec
from store.predictions import COLUMNS
from tests.api.conftest import DIGITS_JOB, SPHERES_JOB, Served, train
from worker.executors.prediction import run_prediction
from worker.run_job import JobRunner, Outcome

SAMPLES = 37  # whole blocks, and a rest
PLANE = SPHERES_JOB | {"model": {"kind": "classifier", "field": {"kind": "mlp", "hidden": [24, 24]}}}
SIGNAL = SPHERES_JOB | {"model": {"kind": "classifier", "field": {"kind": "conv1d", "channels": 4}}}
FLOAT64 = PLANE | {"training": {"precision": "float64"}}


@pytest.mark.parametrize(
    "solver",
    [
        {"method": "rk4", "steps": 16},
        {"method": "dopri5", "rtol": 1e-5, "atol": 1e-5},
        {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3, "backend": "torchdiffeq"},
    ],
    ids=["grid", "tolerances", "torchdiffeq"],
)
@pytest.mark.parametrize("document", [PLANE, SIGNAL, DIGITS_JOB, FLOAT64], ids=["plane", "signal", "images", "float64"])
def test_a_jobs_stored_predictions_are_those_of_requests_bit_for_bit(
    served: Served, document: dict[str, Any], solver: dict[str, Any]
) -> None:
    assert torch.get_num_threads() == 1
    spec = TrainingJobSpec.model_validate(document)
    train(served.store, document)
    asked = {"kind": "predict", "model": spec.name, "solver": solver, "samples": SAMPLES, "logits": True}
    runner = JobRunner(served.settings, served.store, {"predict": run_prediction}, lambda job_id: None, lambda: False)
    with served.client() as client:
        job_id = client.post("/v1/evaluation-jobs", json=asked).json()["id"]
        assert runner.run(job_id) is Outcome.SUCCEEDED
        inputs = load_dataset(spec.dataset, None).test_inputs[:SAMPLES]
        rows = inputs.reshape(SAMPLES, *((1, 8, 8) if isinstance(spec.dataset, DigitsSpec) else (1, 2)))
        if document["model"]["field"]["kind"] == "mlp":
            rows = inputs
        answers = [
            prediction
            for part in (rows[:1], rows[1:2], rows[2:])  # alone, and with others
            for prediction in client.post(
                f"/v1/models/{spec.name}/predict", json={"inputs": part.tolist(), "solver": solver}
            ).json()["predictions"]
        ]
    (stored,) = [unpack(one.columns, one.samples) for one in served.store.prediction_chunks(job_id, COLUMNS, SAMPLES)]
    for name in ("probabilities", "logits"):  # stored in float32
        expected = np.array([answer[name] for answer in answers])
        np.testing.assert_array_equal(stored[name], expected.astype(np.float32))
    for name in ("label", "nfe", "accepted", "rejected"):
        np.testing.assert_array_equal(stored[name], [answer[name] for answer in answers])
