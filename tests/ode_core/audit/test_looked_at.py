import pytest
import torch
from torch import Tensor

from ode_core.audit.audit import audit
from ode_core.audit.diagnosis import diagnose
from ode_core.audit.looked_at import looked_at
from ode_core.audit.reference import converged_reference
from ode_core.audit.rescue import rescue
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.predictions import Predictions, predict
from ode_core.specs import ModifiedFieldSpec, SolverSpec
from tests.ode_core.audit.linear_models import circle, flipped_share, rotation

SAMPLES, MOST = 1_000, 200


def changing(*numbers: int, samples: int = SAMPLES) -> Tensor:
    changed = torch.zeros(samples, dtype=torch.bool)
    changed[list(numbers)] = True
    return changed


ALL_SOLVED = torch.ones(SAMPLES, dtype=torch.bool)


def test_the_first_are_looked_at_where_ten_of_them_change_or_no_ten_are_known() -> None:
    for changed in (changing(*range(0, 20, 2), 500), changing(*range(500, 509)), changing()):
        found = looked_at(changed, ALL_SOLVED, MOST)
        assert found.choice == "first"
        assert found.numbers.tolist() == list(range(MOST))
        assert found.weights is None


def test_few_that_change_are_all_looked_at_and_stand_for_themselves() -> None:
    changed = changing(*range(0, SAMPLES, 40))  # 25, of which 5 are among the first
    found = looked_at(changed, ALL_SOLVED, MOST)
    assert found.choice == "changed_and_others"
    assert found.weights is not None
    assert len(set(found.numbers.tolist())) == MOST
    assert int(changed[found.numbers].sum()) == 25
    assert found.weights[changed[found.numbers]].tolist() == [1.0] * 25
    assert found.weights[~changed[found.numbers]].tolist() == pytest.approx([975 / 175] * 175)
    # Of 175 of 975 none of the second half has a probability below 1e-40.
    assert int(found.numbers[~changed[found.numbers]].max()) > SAMPLES // 2


def test_of_many_that_change_behind_the_first_half_the_samples_are_a_draw_with_its_weights() -> None:
    changed = changing(*range(600, 1_000))
    found = looked_at(changed, ALL_SOLVED, MOST)
    assert found.weights is not None
    assert int(changed[found.numbers].sum()) == MOST // 2
    assert float(found.weights[changed[found.numbers]].sum()) == pytest.approx(400)
    assert float(found.weights.sum()) == pytest.approx(SAMPLES)


def test_samples_whose_training_solve_fails_are_not_sought() -> None:
    assert looked_at(changing(*range(300, 320)), ~changing(*range(300, 315)), MOST).choice == "first"


def test_a_model_of_which_few_predictions_change_has_a_cause_and_a_repair_that_holds_for_all() -> None:
    model, solver, inputs = rotation(2.0), SolverSpec(method="euler", steps=8), circle(SAMPLES)
    trained = predict(model, inputs, solver)
    report = audit(model, inputs, trained.labels, solver, epsilon=0.001)
    changed = trained.flips(report.reference.predictions)
    assert int(changed.sum()) == round(flipped_share(2.0, 8, SAMPLES) * SAMPLES) == 12
    assert not changed[:MOST].any()

    found = diagnose(model, inputs, trained.labels, report, operations=2_000)

    told = found.to_json()["mechanism"]
    assert told["cause"] == "accumulation"  # a rotation has no real eigenvalue
    assert told["samples_chosen"] == "changed_and_others"
    assert set(found.turning_time_by_sample) == set(torch.nonzero(changed).flatten().tolist())
    (trial,) = found.rescues
    assert trial.offered
    assert trial.changed == 12
    assert trial.agreement_of_all is not None
    # Of all samples, most of which the trial did not see.
    repaired = converged_reference(with_modified_field(model, trial.spec), inputs).predictions
    assert float((~repaired.flips(trained)).double().mean()) >= 0.99


def test_a_field_that_breaks_what_the_samples_stand_for_is_not_offered_for_those_it_gives_back() -> None:
    # The flow gives all but one of the predictions asked for; that one stands for 25 of 1,000.
    model, solver, inputs = rotation(8.0), SolverSpec(method="euler", steps=30), circle(SAMPLES)
    spec = ModifiedFieldSpec(solver=solver, kind="iterates", terms=4)
    reference = converged_reference(model, inputs).predictions
    flow = converged_reference(with_modified_field(model, spec), inputs).predictions
    asked = flow.labels.clone()
    asked[0] = 1 - asked[0]
    trained = Predictions(flow.logits, asked, flow.status, flow.evaluations, flow.execution)
    weights = torch.ones(SAMPLES, dtype=torch.float64)

    def offered(of_the_broken: float) -> bool:
        weights[0] = of_the_broken
        return rescue(model, inputs, asked, spec, trained, reference, weights=weights).offered

    assert offered(1.0)
    assert not offered(25.0)
