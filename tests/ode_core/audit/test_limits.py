"""Audits at the ends of what solvers can be asked for."""

import pytest
import torch

from ode_core.audit.audit import audit, half_step_solver, paper_test_solver
from ode_core.audit.ladder import ladder
from ode_core.audit.measurement import Measurement, measure
from ode_core.audit.reference import converged_reference
from ode_core.audit.statistics import clopper_pearson, samples_to_decide
from ode_core.audit.verdict import samples_needed, sentence
from ode_core.models.classifier import build_classifier
from ode_core.models.predictions import predict
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, Conv1dField, SolverSpec
from ode_core.specs.solver import MAX_FIXED_STEPS
from tests.ode_core.audit.linear_models import circle, rotation


@pytest.mark.parametrize("steps", [1, 7_000, 60_000, MAX_FIXED_STEPS])
def test_ladder_and_rules_stay_within_the_steps_a_solver_may_have(steps: int) -> None:
    solver = SolverSpec(method="euler", steps=steps)
    rungs = ladder(solver, 1.0)
    assert solver in rungs
    assert all(1 <= rung.fixed_steps() <= MAX_FIXED_STEPS for rung in rungs)
    assert len(set(rungs)) == len(rungs)
    half = half_step_solver(solver, 1.0)
    assert half == (solver.with_steps(2 * steps) if 2 * steps <= MAX_FIXED_STEPS else None)
    test_solver = paper_test_solver(solver, 1.0)
    assert test_solver is not None
    assert test_solver.fixed_steps() >= steps


def test_a_step_size_is_judged_by_the_steps_it_makes() -> None:
    by_size = SolverSpec(method="euler", step_size=0.5)
    by_steps = SolverSpec(method="euler", steps=4)
    assert ladder(by_size, 2.0) == ladder(by_steps, 2.0)
    assert half_step_solver(by_size, 2.0) == half_step_solver(by_steps, 2.0)
    assert paper_test_solver(by_size, 2.0) == paper_test_solver(by_steps, 2.0)


def test_the_paper_names_no_rule_for_other_methods_and_tolerances() -> None:
    assert paper_test_solver(SolverSpec(method="rk4", steps=4), 1.0) is None
    adaptive = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    assert paper_test_solver(adaptive, 1.0) is None
    assert half_step_solver(adaptive, 1.0) is None


def test_no_tolerance_of_the_ladder_is_below_what_the_models_precision_resolves() -> None:
    eps = torch.finfo(torch.float32).eps
    tolerances = [r.rtol for r in ladder(SolverSpec(method="dopri5", rtol=1e-3, atol=1e-6), 1.0, eps=eps) if r.rtol]
    assert max(tolerances) == pytest.approx(0.1)
    assert min(tolerances) == 50 * eps
    # The training's own stays on the ladder even where it is too tight, and nothing goes below it.
    tight = SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6)
    assert tight in ladder(tight, 1.0, eps=eps)
    assert min(rung.rtol for rung in ladder(tight, 1.0, eps=eps) if rung.rtol) == 1e-6


def test_each_solver_of_an_audit_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[SolverSpec] = []

    def counted(*args: object, **kwargs: object) -> Measurement:
        result = measure(*args, **kwargs)  # type: ignore[arg-type]
        asked.append(result.solver)
        return result

    monkeypatch.setattr("ode_core.audit.audit.measure", counted)
    labels = torch.zeros(20, dtype=torch.int64)
    # Of the ladder are the training solver itself and, with twice the steps, the half-step rule's.
    report = audit(rotation(2.0), circle(20), labels, SolverSpec(method="euler", steps=2))
    assert len(set(asked)) == len(asked)
    assert report.half_step_rule.test_solver in [rung.solver for rung in report.ladder]


def test_an_exception_of_the_progress_report_ends_the_audit() -> None:
    class Cancelled(Exception):
        pass

    messages: list[str] = []

    def report(part: int, total: int, message: str) -> None:
        messages.append(message)
        if "tolerance" in message:
            raise Cancelled

    with pytest.raises(Cancelled):
        audit(
            rotation(2.0),
            circle(20),
            torch.zeros(20, dtype=torch.int64),
            SolverSpec(method="euler", steps=2),
            on_progress=report,
        )
    assert "tolerance" in messages[-1]


@pytest.mark.parametrize("end_time", [1.0, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_reference_of_a_relu_network_is_that_of_a_very_fine_rk4(seed: int, end_time: float) -> None:
    spec = ClassifierSpec(field=Conv1dField(channels=16), end_time=end_time)
    data = ConcentricSpheresSpec(dimension=2)
    model = build_classifier(spec, data, seed=seed).double().requires_grad_(False)
    inputs = circle(200) * torch.linspace(0.2, 2.0, 200)[:, None]
    reference = converged_reference(model, inputs)
    fine = predict(model, inputs, SolverSpec(method="rk4", steps=1024))
    assert reference.converged
    assert fine.failures == 0
    assert torch.equal(reference.predictions.labels, fine.labels)


@pytest.mark.parametrize(
    ("flips", "samples", "epsilon"), [(0, 360, 0.01), (1, 360, 0.01), (8, 400, 0.01), (30, 1000, 0.025)]
)
def test_an_inconclusive_audit_is_told_a_number_of_samples_beyond_its_own(
    flips: int, samples: int, epsilon: float
) -> None:
    low, high = clopper_pearson(flips, samples)
    assert low <= epsilon < high
    needed = samples_needed("inconclusive", flips / samples, epsilon, more_than=samples)
    assert needed is not None
    assert needed > samples
    low, high = clopper_pearson(round(flips / samples * needed), needed)
    assert high <= epsilon or low > epsilon


def test_one_flip_in_360_needs_at_least_the_samples_that_two_flips_need() -> None:
    # By the time that 0.28 % of the samples are two, the interval of two hits must end below 1 %: 720 samples are
    # the first for which it does (one hit needs 555, at which there are 1.54).
    assert clopper_pearson(2, 719)[1] > 0.01 >= clopper_pearson(2, 720)[1]
    assert samples_to_decide(1 / 360, 0.01, more_than=360) == 720


def test_the_sentence_shows_an_interval_that_ends_just_above_the_limit() -> None:
    words = sentence(
        "inconclusive",
        train_solver=SolverSpec(method="euler", steps=40),
        train_accuracy=0.95,
        reference_accuracy=0.95,
        flip_rate=0.0,
        interval=clopper_pearson(0, 360),
        epsilon=0.01,
        needed=368,
        reason="",
    )
    assert "0.00% to 1.02%" in words
    assert "more or less than 1% of" in words
