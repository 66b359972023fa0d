"""The solvers an audit tries to serve a model with, on rotations of the plane, where every method is a known factor."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ode_core.audit import serving_solvers
from ode_core.audit.audit import AuditReport, audit
from ode_core.audit.reference import Reference
from ode_core.audit.serving_solvers import Judge, serving_series, solve_times, solvers_to_serve_with
from ode_core.audit.solver_choice import Timing
from ode_core.models.predictions import NO_LABEL, Predictions
from ode_core.solvers.solution import Execution
from ode_core.solvers.status import SolveStatus
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import circle, rotation

ANGLE, SAMPLES = 2.0, 1000
# One step of size h multiplies by the Taylor polynomial of exp(i angle h) of the method's order.
ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}


def audited(steps: int, samples: int = SAMPLES) -> AuditReport:
    return audit(
        rotation(ANGLE),
        circle(samples),
        torch.zeros(samples, dtype=torch.int64),
        SolverSpec(method="euler", steps=steps),
    )


@pytest.fixture(scope="module")
def ode() -> AuditReport:
    return audited(steps=64)


def agreeing(solver: SolverSpec, samples: int = SAMPLES) -> int:
    """On how many points of the circle the method and the flow end on the same side."""
    assert solver.steps is not None
    z = 1j * ANGLE / solver.steps
    step = sum(z**k / math.factorial(k) for k in range(ORDERS[solver.method] + 1))
    angles = (np.arange(samples) + 0.5) * 2 * np.pi / samples
    ends, exact = (np.exp(1j * angles) * factor for factor in (step**solver.steps, np.exp(1j * ANGLE)))
    return int(np.sum((ends.real > 0) == (exact.real > 0)))


def test_an_ode_may_be_served_with_far_fewer_evaluations_than_it_was_trained_with(ode: AuditReport) -> None:
    chosen = ode.solver_choice.cheapest(0.999).candidate

    assert ode.verdict == "ode"
    assert chosen is not None
    assert chosen.solver == SolverSpec(method="rk4", steps=3)
    assert chosen.nfe == 12


def test_agreement_is_counted_exactly(ode: AuditReport) -> None:
    grids = [one for one in ode.solver_choice.candidates if one.solver.steps is not None]

    assert len(grids) > 20
    for one in grids:
        assert one.agreeing == agreeing(one.solver), one.solver.label


def test_the_ladder_the_training_solver_and_adaptive_ones_are_among_those_tried(ode: AuditReport) -> None:
    tried = [one.solver for one in ode.solver_choice.candidates]

    assert {rung.solver for rung in ode.ladder} <= set(tried)
    assert {"dopri5", "bosh3"} <= {solver.method for solver in tried}
    assert len(set(tried)) == len(tried)


def test_no_solver_that_costs_many_times_another_as_good_is_timed(ode: AuditReport) -> None:
    choice = ode.solver_choice
    least = min(one.nfe for one in choice.candidates if one.agreeing == SAMPLES)

    assert least == 12
    assert {one.seconds is None for one in choice.candidates if one.nfe > 3 * least} == {True}
    assert all(one.seconds is not None and one.seconds > 0 for one in choice.candidates if one.nfe <= 3 * least)
    assert choice.timing.batch_size == 32


def test_of_a_discrete_model_no_further_solvers_are_tried_and_agreement_is_with_the_training() -> None:
    report = audited(steps=2, samples=400)
    choice = report.solver_choice

    assert report.verdict == "discrete"
    assert {one.solver for one in choice.candidates} == {rung.solver for rung in report.ladder}
    for one, rung in itertools.product(choice.candidates, report.ladder):
        if one.solver == rung.solver:
            assert one.agreeing == round(400 * (1 - rung.flip_rate))
            assert (one.seconds is not None) == (one.solver == choice.train_solver)


def test_a_step_size_of_the_training_stays_as_it_was_written() -> None:
    solver = SolverSpec(method="euler", step_size=0.5)
    report = audit(rotation(ANGLE), circle(400), torch.zeros(400, dtype=torch.int64), solver)

    chosen = report.solver_choice.cheapest().candidate
    assert chosen is not None
    assert chosen.solver == solver


def test_series_go_from_coarse_to_fine_and_not_beyond_what_the_training_takes() -> None:
    series = serving_series(SolverSpec(method="euler", steps=1000), 1.0)
    grids = {one[0].method: [solver.steps for solver in one] for one in series if not one[0].adaptive}

    assert grids["rk4"] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]  # 256 would take 1,024
    assert grids["midpoint"][-1] == 384
    assert grids["euler"][-1] == 768
    for one in series:
        if one[0].adaptive:
            tolerances = [solver.rtol for solver in one]
            assert tolerances == sorted(tolerances, key=lambda tolerance: -(tolerance or 0))


def predictions(*labels: int) -> Predictions:
    status = [SolveStatus.SUCCESS if label != NO_LABEL else SolveStatus.NON_FINITE for label in labels]
    return Predictions(
        logits=torch.zeros(len(labels), 2),
        labels=torch.tensor(labels),
        status=torch.tensor([int(one) for one in status]),
        evaluations=torch.ones(len(labels)),
        execution=Execution("eager"),
    )


@pytest.mark.parametrize(
    ("verdict", "agreeing", "most"),
    # Samples: right everywhere; as trained only; as the reference only; not settled; failed.
    [("ode", 2, 4), ("inconclusive", 1, 2), ("discrete", 3, 5), ("unresolved", 3, 5)],
)
def test_what_counts_as_agreement_follows_from_the_verdict(verdict: str, agreeing: int, most: int) -> None:
    trained, exact = predictions(0, 0, 1, 0, 0), predictions(0, 1, 0, 0, 0)
    settled = torch.tensor([True, True, True, False, True])
    reference = Reference(settled, 1e-9, 0, "", exact, 1.0)
    judge = Judge(verdict, torch.zeros(5, dtype=torch.int64), trained, reference)  # type: ignore[arg-type]

    found = judge(SolverSpec(method="rk4", steps=1), predictions(0, 0, 0, 0, NO_LABEL))

    assert (found.agreeing, found.failures) == (agreeing, 1)
    assert judge.most == most


def test_the_time_is_the_least_of_the_rounds_and_solvers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = SolverSpec(method="euler", steps=2), SolverSpec(method="euler", steps=1)
    takes = iter([9.0, 1.0, 5.0, 3.0, 8.0, 2.0, 7.0, 4.0])  # slow, quick, slow, quick, ...
    now, order = [0.0], []

    def predict(model: object, inputs: torch.Tensor, solver: SolverSpec, **options: object) -> None:
        order.append((solver, len(inputs), getattr(model, "compilation", None)))
        now[0] += next(takes)

    clock: Callable[[], float] = lambda: now[0]  # noqa: E731
    monkeypatch.setattr(serving_solvers, "predict", predict)
    monkeypatch.setattr(serving_solvers.time, "perf_counter", clock)
    model = rotation(1.0)

    seconds, timing = solve_times(model, circle(100), [slow, quick], before_each=lambda: None, max_evaluations=None)

    assert seconds == {slow: 5.0 / 32, quick: 1.0 / 32}
    assert order == [(slow, 32, "never"), (quick, 32, "never")] * 4
    assert (timing.batch_size, timing.rounds, timing.device) == (32, 4, "cpu")
    assert model.compilation == "auto"


def test_evaluations_of_a_modified_field_are_compared_in_those_of_the_trained_one() -> None:
    # The training solver takes 3 evaluations of the trained field; one of the modified field is 4 of them.
    trained, wrong = predictions(0, 0), predictions(1, 1)
    trained = replace(trained, evaluations=torch.full((2,), 3.0))
    reference = Reference(torch.ones(2, dtype=torch.bool), 1e-9, 0, "", trained, 1.0)
    train_solver = SolverSpec(method="midpoint", steps=1)
    grids = [SolverSpec(method="euler", steps=steps) for steps in (1, 2, 3)]
    solved: list[SolverSpec] = []

    def solve(solver: SolverSpec) -> Predictions:
        solved.append(solver)
        if solver == train_solver:
            return trained
        return replace(wrong, evaluations=torch.full((2,), 4.0 * (solver.steps or 0)))

    judge = Judge("ode", torch.zeros(2, dtype=torch.int64), trained, reference)
    solvers_to_serve_with(train_solver, [], [grids], judge, solve, lambda _: ({}, Timing(2, 1, "cpu")), each=4)

    assert solved == [train_solver, *grids[:2]]  # 3 steps take 12 evaluations, more than 3 times 3
