import pytest
import torch

from ode_core.fields.vector_fields import VectorField, build_field, initialise
from ode_core.solvers import stacked_grids
from ode_core.solvers.solution import Solution
from ode_core.solvers.solve import solve, solve_together
from ode_core.solvers.stacked_grids import solve_stacked_grids, stacks
from ode_core.solvers.status import SolveStatus
from ode_core.specs import METHODS, Conv1dField, Conv2dField, MlpField, SolverSpec
from ode_core.specs.model import FieldSpec
from tests.ode_core.fields.stacked_chains import stack_of

EXPLICIT = [name for name, facts in METHODS.items() if facts.family == "explicit"]
COUNTS = [4, 1, 9, 4, 2]  # in no order, one of them twice
CPU = torch.device("cpu")


def a_field(spec: FieldSpec, shape: tuple[int, ...]) -> VectorField:
    field = build_field(spec, shape).double()
    initialise(field, torch.Generator().manual_seed(1))
    return field


def a_batch(shape: tuple[int, ...], batch: int = 5) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def assert_same(stacked: Solution, alone: Solution) -> None:
    # Tens of steps of numbers around 1, whose products may be added up in another order.
    assert torch.allclose(stacked.final, alone.final, rtol=1e-12, atol=1e-12, equal_nan=True)
    for name in ("status", "evaluations", "accepted", "rejected", "last_step"):
        assert torch.equal(getattr(stacked, name), getattr(alone, name)), name


@pytest.mark.parametrize(("t0", "t1"), [(0.1, 0.9), (0.9, 0.1)])
@pytest.mark.parametrize("time_dependent", [False, True])
@pytest.mark.parametrize("shape", [(1, 2), (12,)])
@pytest.mark.parametrize("method", EXPLICIT)
@torch.no_grad()
def test_a_stack_of_grids_is_each_of_them_alone(method, shape, time_dependent, t0, t1):
    spec: FieldSpec = Conv1dField(channels=5, activation="tanh", time_dependent=time_dependent)
    if shape == (12,):
        spec = MlpField(hidden=(6, 5), time_dependent=time_dependent)
    field, z0 = a_field(spec, shape), a_batch(shape)
    stacked = solve_stacked_grids(field.for_states(shape), z0, method, COUNTS, t0=t0, t1=t1)
    for solution, steps in zip(stacked, COUNTS, strict=True):
        # The network itself, layer by layer, is another way to compute it.
        assert_same(solution, solve(field, z0, SolverSpec(method=method, steps=steps), t0=t0, t1=t1))
        assert (solution.execution.path, solution.execution.stacked) == ("taped", len(COUNTS))


@torch.no_grad()
def test_stages_of_all_lanes_stay_within_the_interval():
    field = a_field(Conv1dField(channels=3, time_dependent=True), (1, 2))
    times: list[torch.Tensor] = []
    chain = field.for_states((1, 2))
    tape_of = type(chain).tape

    class Watched(type(chain)):
        def tape(self, z, slots):
            tape = tape_of(self, z, slots)
            evaluate = tape.evaluate
            tape.evaluate = lambda slot, t, out: (
                times.append(torch.as_tensor(t, dtype=torch.float64)),
                evaluate(slot, t, out),
            )
            return tape

    watched = Watched(**{name: getattr(chain, name) for name in chain.__dataclass_fields__})
    solve_stacked_grids(watched, a_batch((1, 2)), "rk4", [3, 7, 49], t0=0.1, t1=0.3)
    seen = torch.cat([t.flatten() for t in times])
    assert (seen.min(), seen.max()) == (0.1, 0.3)


@torch.no_grad()
def test_a_lane_that_overflows_leaves_the_others_alone():
    field = a_field(MlpField(hidden=(8,), activation="relu"), (2,))
    for weight in field.parameters():
        weight *= 40.0
    z0 = torch.tensor([[1.0, 1.0], [1e-300, 0.0]], dtype=torch.float64)
    solvers = [SolverSpec(method="euler", steps=steps) for steps in (2, 400, 3)]
    together = solve_together(field.for_states((2,)), z0, solvers)
    for solution, solver in zip(together, solvers, strict=True):
        assert_same(solution, solve(field, z0, solver))
    assert int(together[1].status[0]) == SolveStatus.NON_FINITE
    assert bool(together[0].succeeded.all())
    assert bool(together[2].succeeded.all())


@torch.no_grad()
def test_solvers_that_cannot_be_stacked_are_solved_beside_the_stack():
    field = a_field(Conv1dField(channels=4), (1, 2))
    solvers = [
        SolverSpec(method="euler", steps=3),
        SolverSpec(method="dopri5", rtol=1e-6, atol=1e-6),
        SolverSpec(method="rk4", steps=2),
        SolverSpec(method="euler", step_size=0.1),
        SolverSpec(method="euler", step_size=0.3, grid="truncate"),
        SolverSpec(method="implicit_midpoint", steps=2),
        SolverSpec(method="euler", steps=4, backend="torchdiffeq"),
    ]
    z0 = a_batch((1, 2))
    together = solve_together(field.for_states((1, 2)), z0, solvers)
    for solution, solver in zip(together, solvers, strict=True):
        assert_same(solution, solve(field.for_states((1, 2)), z0, solver))
    assert [solution.execution.stacked for solution in together] == [2, 1, 1, 2, 1, 1, 1]


@torch.no_grad()
def test_a_lane_beyond_the_evaluations_fails_and_the_others_are_solved():
    field = a_field(Conv1dField(channels=4), (1, 2)).for_states((1, 2))
    solvers = [SolverSpec(method="midpoint", steps=steps) for steps in (2, 50, 3)]
    together = solve_together(field, a_batch((1, 2)), solvers, max_evaluations=20)
    assert [int(solution.status[0]) for solution in together] == [
        SolveStatus.SUCCESS,
        SolveStatus.BUDGET_EXCEEDED,
        SolveStatus.SUCCESS,
    ]
    assert [int(solution.evaluations[0]) for solution in together] == [4, 0, 6]
    assert bool(together[1].final.isnan().all())


def test_with_gradients_or_a_field_without_a_tape_the_solves_are_made_one_after_another():
    solvers = [SolverSpec(method="euler", steps=steps) for steps in (2, 3)]
    chain = a_field(Conv1dField(channels=4), (1, 2)).for_states((1, 2))
    images = a_field(Conv2dField(channels=2), (1, 4, 4))
    for field, shape in ((chain, (1, 2)), (images, (1, 4, 4))):
        together = solve_together(field, a_batch(shape), solvers)
        assert [solution.execution.stacked for solution in together] == [1, 1]
        assert all(solution.final.requires_grad for solution in together)
    with torch.no_grad():
        assert [s.execution.stacked for s in solve_together(images, a_batch((1, 4, 4)), solvers)] == [1, 1]


@torch.no_grad()
def test_a_stack_is_split_where_it_would_take_too_much_memory(monkeypatch):
    chain = a_field(Conv1dField(channels=4), (1, 2)).for_states((1, 2))
    solvers = [SolverSpec(method="midpoint", steps=steps) for steps in (5, 1, 4, 2, 3)]
    z0 = a_batch((1, 2))
    # Two evaluations of five samples in float64, each with 2 numbers of a state and 8, 8 and 2 of the layers.
    monkeypatch.setattr(stacked_grids, "_MOST_BYTES", 2 * (2 * 2 * 5 * (2 + 8 + 8 + 2) * 8))
    together = solve_together(chain, z0, solvers)
    assert [solution.execution.stacked for solution in together] == [1, 2, 2, 2, 2]
    for solution, solver in zip(together, solvers, strict=True):
        assert_same(solution, solve(chain, z0, solver))


@torch.no_grad()
def test_a_stack_of_networks_is_solved_one_solver_after_another():
    fields = [a_field(Conv1dField(channels=4), (1, 2)) for _ in range(3)]
    for number, field in enumerate(fields):
        initialise(field, torch.Generator().manual_seed(number))
    networks, z0 = stack_of(fields, (1, 2)), a_batch((1, 2), 15)
    solvers = [SolverSpec(method="euler", steps=steps) for steps in (3, 7, 2)]
    for solution, solver in zip(solve_together(networks, z0, solvers), solvers, strict=True):
        for number, field in enumerate(fields):
            own = slice(5 * number, 5 * number + 5)
            assert torch.allclose(solution.final[own], solve(field, z0[own], solver).final, rtol=1e-12, atol=1e-12)


def test_solvers_of_one_method_make_a_stack_for_small_batches_only_on_a_processor():
    solvers = [
        SolverSpec(method="euler", steps=1),
        SolverSpec(method="rk4", steps=1),
        SolverSpec(method="bosh3", rtol=1e-3, atol=1e-3),
        SolverSpec(method="euler", steps=2),
        SolverSpec(method="rk4", steps=2),
    ]
    assert stacks(solvers, 100, CPU) == [[0, 3], [1, 4], [2]]
    assert stacks(solvers, 1000, CPU) == [[0], [1], [2], [3], [4]]
    assert stacks(solvers, 1000, torch.device("cuda")) == [[0, 3], [1, 4], [2]]
