import pytest
import torch

from ode_core.audit.audit import audit
from ode_core.audit.diagnosis import diagnose
from ode_core.audit.reference import converged_reference
from ode_core.audit.rescue import PILOT, PILOT_EVALUATIONS, Rescue, pilot_samples, rescue
from ode_core.models.classifier import Classifier
from ode_core.models.predictions import Predictions, predict
from ode_core.specs import ModifiedFieldSpec, SolverSpec
from tests.ode_core.audit.linear_models import Counted, LinearField, circle, classifier_around, rotation

SAMPLES, EULER = 200, SolverSpec(method="euler", steps=1)


def tried(model: Classifier, steps: int, terms: int = 4, pilot: int | None = PILOT) -> tuple[Rescue, int]:
    """Try the modified field of Euler steps on points in a random order; return the trial and its evaluations."""
    solver = SolverSpec(method="euler", steps=steps)
    inputs = circle(SAMPLES)[torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))]
    trained, reference = predict(model, inputs, solver), converged_reference(model, inputs).predictions
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    spec = ModifiedFieldSpec(solver=solver, kind="iterates", terms=terms)
    found = rescue(model, inputs, trained.labels, spec, trained, reference, pilot=pilot, on_evaluation=count)
    return found, calls


def test_a_field_that_is_stiff_beyond_the_bound_is_stopped_after_a_few_samples_and_says_why() -> None:
    # The series of log(1 + x)/x to four terms at x = h a = -40 is -16,000 times the field's slope: dopri5 is stable to
    # about 3.3, so the interval takes more steps than the bound allows.
    x = -40.0
    rate = sum((-1) ** (j + 1) / j * x**j for j in range(1, 5))
    assert abs(rate) / 3.5 * 6 > 100 * PILOT_EVALUATIONS
    found, calls = tried(classifier_around(Counted([[x, 0.0], [0.0, 0.0]])), steps=1)
    assert found.stopped
    assert found.samples == PILOT
    assert not found.offered
    assert found.score is None
    assert found.unsettled == PILOT
    assert found.reason is not None
    assert found.reason.startswith(f"stopped after {PILOT} of {SAMPLES} samples, drawn at random")
    assert calls <= 4 * PILOT_EVALUATIONS


def test_a_field_that_gives_other_predictions_is_stopped_and_one_that_gives_the_trained_goes_on() -> None:
    crossing, _ = tried(classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), steps=1)
    assert crossing.stopped
    # The flow on a line keeps its sign, and the step changed it: no sample has the trained prediction.
    assert crossing.agreement == 0
    assert crossing.changed == SAMPLES
    rotated, _ = tried(rotation(8.0), steps=30)
    whole, _ = tried(rotation(8.0), steps=30, pilot=None)
    assert not rotated.stopped
    assert rotated.offered
    assert rotated == whole


def test_a_repair_is_not_lost_where_the_few_samples_that_it_does_not_give_back_come_first() -> None:
    # 17 of 20 would exclude an agreement of 99 %, at which P(X <= 17) is 0.1 %.
    model, inputs, solver = rotation(8.0), circle(600), SolverSpec(method="euler", steps=30)
    found = predict(model, inputs, solver)
    other = found.labels.clone()
    other[10:13] = 1 - other[10:13]  # away from the line between the classes, where the field gives back all
    trained = Predictions(found.logits, other, found.status, found.evaluations, found.execution)
    reference = converged_reference(model, inputs).predictions
    spec = ModifiedFieldSpec(solver=solver, kind="iterates", terms=4)

    # With the labels of the reference no accuracy is lost, and an offer is one by agreement.
    trial = rescue(model, inputs, reference.labels, spec, trained, reference, pilot=PILOT)

    assert not trial.stopped
    assert 0.99 < trial.agreement <= 597 / 600
    assert trial.offered


def test_the_samples_tried_first_are_a_draw_of_their_number_alone() -> None:
    first, again = (pilot_samples(1_000, PILOT) for _ in range(2))
    assert torch.equal(first, again)
    assert len(set(first.tolist())) == PILOT
    # Of 20 of 1,000 none above 500 has a probability of 1e-6.
    assert 500 < int(first.max()) < 1_000


def test_a_trial_that_is_stopped_names_the_evaluations_that_it_had() -> None:
    model, inputs = classifier_around(Counted([[-40.0, 0.0], [0.0, 0.0]])), circle(SAMPLES)
    trained, reference = predict(model, inputs, EULER), converged_reference(model, inputs).predictions
    spec = ModifiedFieldSpec(solver=EULER, kind="iterates", terms=4)

    trial = rescue(model, inputs, trained.labels, spec, trained, reference, pilot=PILOT, max_evaluations=300)

    assert trial.reason is not None
    assert "do not settle within 300 evaluations of the modified field" in trial.reason


def test_without_a_pilot_all_samples_are_tried() -> None:
    found, _ = tried(classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), steps=1, pilot=None)
    assert not found.stopped
    assert found.samples == SAMPLES
    assert found.score == pytest.approx(0, abs=0.05)


def test_an_audit_begins_with_a_few_samples_where_a_trial_would_be_dear() -> None:
    model, inputs, solver = classifier_around(LinearField([[-3.0, 0.0], [0.0, 0.0]])), circle(SAMPLES), EULER
    labels = predict(model, inputs, solver).labels
    report = audit(model, inputs, labels, solver)
    cheap, dear = (
        [trial.samples for trial in diagnose(model, inputs, labels, report, operations=operations).rescues]
        for operations in (2_000, 100_000)
    )
    assert set(cheap) == {SAMPLES}
    assert set(dear) == {PILOT}
