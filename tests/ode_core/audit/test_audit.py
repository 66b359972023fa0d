import json

import pytest
import torch
from scipy import stats

from ode_core.audit.audit import AuditReport, audit
from ode_core.audit.ladder import ladder
from ode_core.audit.verdict import decide, samples_needed, sentence
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import Explosion, circle, classifier_around, flipped_share, rotation

SAMPLES = 400


def audited(angle: float, steps: int, epsilon: float = 0.01) -> AuditReport:
    """Audit a rotation whose labels are right under Euler with ``steps`` steps."""
    model, inputs = rotation(angle), circle(SAMPLES)
    solver = SolverSpec(method="euler", steps=steps)
    with torch.no_grad():
        labels = model(inputs, solver).argmax(dim=1)
    return audit(model, inputs, labels, solver, epsilon=epsilon)


def test_a_model_that_only_works_with_its_coarse_solver_is_discrete() -> None:
    report = audited(angle=2.0, steps=2)
    assert report.verdict == "discrete"
    assert report.flip_rate == pytest.approx(flipped_share(2.0, 2, SAMPLES), abs=1e-12)
    assert report.train_accuracy == 1.0
    assert report.reference_accuracy == pytest.approx(1 - report.flip_rate)
    assert "not an ODE" in report.sentence
    assert "euler-2" in report.sentence


def test_a_model_whose_solver_is_fine_enough_is_an_ode() -> None:
    report = audited(angle=2.0, steps=64)
    assert report.verdict == "ode"
    assert report.flip_rate == 0.0
    assert report.samples_needed is None
    assert report.mcnemar_p == 1.0


def test_too_few_samples_are_inconclusive_and_the_audit_says_how_many_it_takes() -> None:
    model, inputs = rotation(2.0), circle(100)
    solver = SolverSpec(method="euler", steps=64)
    report = audit(model, inputs, torch.zeros(100, dtype=torch.int64), solver, epsilon=0.01)
    assert report.verdict == "inconclusive"
    assert report.samples_needed == 368
    assert "368" in report.sentence


@pytest.mark.parametrize(("held_out", "said"), [(None, False), (367, True), (368, False)])
def test_where_there_are_not_as_many_samples_as_it_takes_the_sentence_says_so(held_out: int | None, said: bool) -> None:
    words = sentence(
        "inconclusive",
        train_solver=SolverSpec(method="euler", steps=2),
        train_accuracy=1.0,
        reference_accuracy=1.0,
        flip_rate=0.0,
        interval=(0.0, 0.036),
        epsilon=0.01,
        needed=368,
        reason="",
        held_out=held_out,
    )
    assert "about 368 samples would decide it" in words
    assert ("and the test split has 367" in words) is said


def test_the_papers_rule_passes_a_model_that_the_audit_finds_discrete() -> None:
    # Euler with 30 steps turns by about 5^3 / (3 30^2) = 0.046 less than the flow: more than 1 % of the points flip,
    # and the accuracy falls by less than the paper's threshold of 0.1.
    report = audited(angle=5.0, steps=30, epsilon=0.001)
    assert report.flip_rate == pytest.approx(flipped_share(5.0, 30, SAMPLES), abs=1e-12)
    assert report.flip_rate > 0.01
    assert report.verdict == "discrete"
    assert report.paper_rule.passed
    assert report.half_step_rule.passed


def test_the_ladder_compares_with_training_and_reference() -> None:
    report = audited(angle=2.0, steps=2)
    by_solver = {rung.solver: rung for rung in report.ladder}
    own = by_solver[SolverSpec(method="euler", steps=2)]
    assert own.flip_rate == 0.0
    assert own.reference_flip_rate == report.flip_rate
    finest = by_solver[SolverSpec(method="rk4", steps=32)]
    assert finest.reference_flip_rate == 0.0


def test_the_report_is_json_without_nan() -> None:
    text = json.dumps(audited(angle=2.0, steps=2).to_json(), allow_nan=False)
    assert json.loads(text)["reference"]["converged"] is True


def test_progress_counts_up_to_the_total() -> None:
    parts: list[tuple[int, int]] = []
    audit(
        rotation(1.0),
        circle(10),
        torch.zeros(10, dtype=torch.int64),
        SolverSpec(method="euler", steps=1),
        on_progress=lambda part, total, message: parts.append((part, total)),
    )
    assert parts[-1][0] == parts[-1][1]
    assert [part for part, _ in parts] == sorted(part for part, _ in parts)


def test_an_adaptively_trained_model_is_audited_on_a_ladder_of_tolerances() -> None:
    solver = SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    rungs = ladder(solver, 1.0)
    assert solver in rungs
    assert min(rung.rtol for rung in rungs if rung.rtol) == pytest.approx(1e-6)
    report = audit(rotation(2.0), circle(SAMPLES), torch.zeros(SAMPLES, dtype=torch.int64), solver, epsilon=0.05)
    assert report.verdict == "ode"
    assert report.paper_rule.passed is None


def test_the_ladder_of_a_fixed_grid_has_the_eight_multiples_for_three_methods_once_each() -> None:
    rungs = ladder(SolverSpec(method="euler", steps=4), 1.0)
    assert [rung.steps for rung in rungs if rung.method == "rk4"] == [1, 2, 3, 4, 6, 8, 16, 64]
    assert len(set(rungs)) == len(rungs) == 24


def test_no_rung_costs_more_than_sixteen_times_the_training() -> None:
    by_method = {
        method: [rung.steps for rung in ladder(SolverSpec(method="euler", steps=64), 1.0) if rung.method == method]
        for method in ("euler", "midpoint", "rk4")
    }
    assert by_method["euler"] == [16, 32, 48, 64, 96, 128, 256, 1024]
    assert by_method["midpoint"] == by_method["rk4"] == [16, 32, 48, 64, 96, 128, 256]


@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="euler", step_size=0.3, grid="truncate"),
        SolverSpec(method="heun", steps=4, backend="torchdiffeq"),
    ],
)
def test_the_rung_at_the_training_s_own_steps_is_the_training_solver(solver: SolverSpec) -> None:
    rungs = ladder(solver, 1.0)
    assert [rung for rung in rungs if rung.method == solver.method and rung.fixed_steps() == 4] == [solver]


def test_the_ladder_of_a_single_step_is_short() -> None:
    assert {rung.steps for rung in ladder(SolverSpec(method="heun", steps=1), 1.0)} == {1, 2, 4, 16}


@pytest.mark.parametrize(
    ("flips", "verdict"),
    # By SciPy the interval of 3 in 1,000 ends at 0.87 %, of 4 at 1.02 %; that of 17 begins at 0.99 %, of 18 at 1.07 %.
    [(0, "ode"), (3, "ode"), (4, "inconclusive"), (17, "inconclusive"), (18, "discrete"), (1000, "discrete")],
)
def test_the_verdict_follows_the_interval(flips: int, verdict: str) -> None:
    assert decide(flips, 1000, 0.01) == verdict


def test_an_epsilon_copied_from_the_interval_of_an_audit_is_reached() -> None:
    # The numbers of flip_interval in a result: an ode up to its upper end, not discrete at its lower one.
    low, high = stats.binomtest(7, 1000).proportion_ci(method="exact")
    assert decide(7, 1000, high) == "ode"
    assert decide(7, 1000, low) == "inconclusive"


def test_one_sample_without_a_solution_cannot_make_a_model_discrete() -> None:
    # The flow of z' = z^2 from 2 ends before t = 1; all other samples stay where Euler leaves them.
    inputs = torch.cat([torch.tensor([[2.0, 0.0]]), torch.full((199, 2), -0.5)])
    model, solver = classifier_around(Explosion()), SolverSpec(method="euler", steps=64)
    report = audit(model, inputs, torch.zeros(200, dtype=torch.int64), solver, epsilon=1e-4)
    assert report.reference.failures == 1
    assert report.verdict == "unresolved"
    assert "1 of 200 solves end with" in report.sentence


def test_one_sample_without_a_solution_does_not_hide_a_verdict_that_holds_without_it() -> None:
    inputs = torch.cat([torch.tensor([[2.0, 0.0]]), torch.full((199, 2), -0.5)])
    model, solver = classifier_around(Explosion()), SolverSpec(method="euler", steps=64)
    report = audit(model, inputs, torch.zeros(200, dtype=torch.int64), solver, epsilon=0.05)
    assert report.verdict == "ode"


def test_many_samples_without_a_solution_leave_the_audit_unresolved() -> None:
    inputs = torch.cat([torch.full((20, 2), 2.0), torch.full((180, 2), -0.5)])
    model, solver = classifier_around(Explosion()), SolverSpec(method="euler", steps=64)
    report = audit(model, inputs, torch.zeros(200, dtype=torch.int64), solver)
    assert report.verdict == "unresolved"


def test_an_unresolved_audit_claims_nothing() -> None:
    words = sentence(
        "unresolved",
        train_solver=SolverSpec(method="euler", steps=2),
        train_accuracy=1.0,
        reference_accuracy=0.0,
        flip_rate=1.0,
        interval=(0.9, 1.0),
        epsilon=0.01,
        needed=None,
        reason="3 of 3 solves end with non_finite",
    )
    assert "nothing is claimed" in words
    assert "3 of 3 solves end with non_finite" in words
    assert samples_needed("unresolved", 1.0, 0.01) is None


def test_an_audit_solves_within_its_evaluations_and_leaves_out_grids_beyond_them() -> None:
    model, inputs, labels = rotation(2.0), circle(SAMPLES), torch.zeros(SAMPLES, dtype=torch.int64)
    solver = SolverSpec(method="euler", steps=50)
    report = audit(model, inputs, labels, solver, max_evaluations=99)
    assert report.half_step_rule.test_solver is None  # 100 evaluations
    assert solver in [rung.solver for rung in report.ladder]
    assert max(rung.nfe for rung in report.ladder) <= 99
    assert all(rung.failures == 0 for rung in report.ladder)
    reason = audit(model, inputs, labels, solver, max_evaluations=10).reference.reason
    assert "would take more than 10 evaluations of the field" in reason
