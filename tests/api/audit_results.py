"""Results of real audits of models with a known flow, one of each verdict."""

from typing import Any

import torch
from torch import Tensor

from ode_core.audit.advice import advice
from ode_core.audit.audit import audit
from ode_core.audit.diagnosis import diagnose, no_diagnosis
from ode_core.audit.flipping_samples import flipping_samples
from ode_core.audit.repair import repair_options
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import predict
from ode_core.specs import SolverSpec, StartFrom, TrainingJobSpec
from ode_core.specs.budgets import Budget
from tests.api.conftest import SPHERES_JOB
from tests.ode_core.audit.linear_models import Explosion, circle, classifier_around, rotation

EULER4 = SolverSpec(method="euler", steps=4)
ADAPTIVE = SolverSpec(method="heun_euler", rtol=0.5, atol=0.5)


def result_of(
    model: Classifier, inputs: Tensor, solver: SolverSpec, *, mechanism: bool, labels: Tensor | None = None
) -> dict[str, Any]:
    """Audit a model as a worker does, with version 1 of ``spheres`` for its name."""
    labels = predict(model, inputs, solver).labels if labels is None else labels
    report = audit(model, inputs, labels, solver)
    diagnosis = (
        diagnose(model, inputs, labels, report, operations=2_000) if mechanism else no_diagnosis("it was not asked for")
    )
    spec = TrainingJobSpec.model_validate(SPHERES_JOB)
    repair = repair_options(
        spec,
        StartFrom(model="spheres", version=1),
        solver,
        report.epsilon,
        diagnosis.samples,
        diagnosis.rescues,
        diagnosis.no_rescue,
        Budget(),
        verdict=report.verdict,
        advice=advice(
            report.verdict,
            solver=solver.label,
            epsilon=report.epsilon,
            needed=report.samples_needed,
            held_out=len(labels),
        ),
    )
    turning = diagnosis.turning_time_by_sample
    return {
        "model": "spheres",
        "version": 1,
        **report.to_json(),
        "samples_asked": None,
        "test_samples": len(labels),
        **diagnosis.to_json(),
        "repair": repair.to_json() if mechanism and report.verdict != "ode" else None,
        "parent": None,
        "flipping_samples": flipping_samples(report, inputs, labels, turning_times=turning).to_json(),
        "measured": {
            "dataset": spec.dataset.model_dump(mode="json"),
            "classes": 2,
            "device": "cpu",
            "precision": "float32",
            "versions": {"odeness": "0.1.0", "torch": "2"},
        },
    }


def discrete() -> dict[str, Any]:
    """Four Euler steps turn the plane by less than the flow does."""
    return result_of(rotation(2.0), circle(200), EULER4, mechanism=True)


def adaptive() -> dict[str, Any]:
    """Steps of each sample's own."""
    return result_of(rotation(2.0), circle(200), ADAPTIVE, mechanism=True)


def ode() -> dict[str, Any]:
    """Steps that are fine enough for every sample."""
    return result_of(rotation(0.001), circle(400), EULER4, mechanism=False)


def inconclusive() -> dict[str, Any]:
    """Too few samples to tell."""
    return result_of(rotation(0.001), circle(40), EULER4, mechanism=False)


def unresolved() -> dict[str, Any]:
    """The flow of a tenth of the samples ends before t = 1."""
    inputs = torch.cat([torch.full((20, 2), 2.0), torch.full((180, 2), -0.5)])
    labels = torch.zeros(200, dtype=torch.int64)
    solver = SolverSpec(method="euler", steps=64)
    return result_of(classifier_around(Explosion()), inputs, solver, mechanism=False, labels=labels)


RESULTS = {
    "discrete": discrete,
    "adaptive": adaptive,
    "ode": ode,
    "inconclusive": inconclusive,
    "unresolved": unresolved,
}
