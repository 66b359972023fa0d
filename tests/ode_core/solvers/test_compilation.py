"""Compiling takes seconds a graph, so these tests share one small kind of step where they can."""

import gc
import logging
import weakref

import pytest
import torch
from torch._dynamo.utils import counters

from ode_core.fields.vector_fields import build_field, initialise
from ode_core.solvers import compilation, compiled_passes
from ode_core.solvers.compilation import KindOfStep, kind_of_step
from ode_core.solvers.functional_field import FunctionalField, as_functional
from ode_core.solvers.solution import Field, Solution
from ode_core.solvers.solve import solve
from ode_core.solvers.status import SolveStatus
from ode_core.specs import Conv1dField, Conv2dField, SolverSpec
from tests.ode_core.solvers.problems import bernoulli

TIMES = torch.linspace(0, 1.5, 7, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _no_kinds_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_KINDS", type(compilation._KINDS)())
    # Two passes a graph instead of four: half the time to compile.
    monkeypatch.setattr(compiled_passes, "_MOST_PASSES", 2)


def spec(tolerance: float = 1e-4, **settings: object) -> SolverSpec:
    return SolverSpec(method="heun_euler", rtol=tolerance, atol=tolerance, **settings)


def starts(batch: int) -> torch.Tensor:
    scale = torch.logspace(-2, 1, batch, dtype=torch.float64)[:, None]
    return scale * torch.rand(batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pair(
    z0: torch.Tensor, solver: SolverSpec, field: Field = bernoulli, **arguments: object
) -> tuple[Solution, Solution]:
    eager, compiled = (
        solve(field, z0, solver, compilation=mode, **arguments)  # type: ignore[arg-type]
        for mode in ("never", "always")
    )
    assert eager.execution.path == "eager"
    assert compiled.execution.path == "compiled"
    return eager, compiled


def assert_same(eager: Solution, compiled: Solution) -> None:
    for name in ("status", "evaluations", "accepted", "rejected"):
        assert torch.equal(getattr(eager, name), getattr(compiled, name)), name
    for name in ("final", "trajectory", "last_step"):
        one, other = getattr(eager, name), getattr(compiled, name)
        # The same operations, some of them fused; steps are rounded to seven digits.
        assert (one is None and other is None) or torch.allclose(one, other, rtol=1e-11, atol=1e-13, equal_nan=True)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


class ByNumbers:
    """``bernoulli`` as a field that says itself what it is a function of, and that samples do not meet in it."""

    def __call__(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return bernoulli(t, z)

    def functional(self) -> FunctionalField:
        return FunctionalField(lambda tensors, t, z: bernoulli(t, z), (), "bernoulli", None, by_sample=True)


def test_one_graph_serves_batches_intervals_tolerances_outputs_and_limits() -> None:
    before, field = graphs(), ByNumbers()
    assert_same(*pair(starts(30), spec(), field, t1=1.5, times=TIMES, outputs="interpolate"))
    assert graphs() == before + 1
    # Other sizes of the batch up to the next power of two, tolerances, ends, outputs; a sample that fails.
    assert_same(*pair(starts(17), spec(1e-3), field, t0=0.5, t1=0.9, times=torch.tensor([0.6]), outputs="interpolate"))
    failing = starts(21)
    failing[3], failing[5] = -3.0, torch.nan  # grows without bound before t = 1
    eager, compiled = pair(failing, spec(max_steps=60), field, t1=1.5, times=TIMES, outputs="interpolate")
    assert set(compiled.status.tolist()) >= {SolveStatus.SUCCESS, SolveStatus.NON_FINITE}
    assert_same(eager, compiled)
    assert_same(*pair(starts(20), spec(), field, t1=1.5, times=TIMES, outputs="interpolate", max_evaluations=80))
    assert graphs() == before + 1
    # Alone: one sample is padded to the smallest batch, another graph.
    assert_same(*pair(starts(1), spec(), field, t1=1.5, times=TIMES, outputs="interpolate"))
    assert graphs() == before + 2


def test_a_field_in_which_samples_may_meet_is_not_padded() -> None:
    z0 = starts(5)
    eager, compiled = pair(z0, spec(), lambda t, z: -z + z.mean(dim=0), t1=1.0)
    assert_same(eager, compiled)


def test_landing_on_outputs_is_compiled_too() -> None:
    before = graphs()
    assert_same(*pair(starts(30), spec(), t1=1.5, times=TIMES))
    assert_same(*pair(starts(30), spec(), t1=1.0, times=torch.tensor([0.0, 0.3, 0.3, 1.0])))
    assert graphs() <= before + 2


@pytest.mark.parametrize(
    "shape", [(), pytest.param((3, 2), marks=pytest.mark.slow), pytest.param((9,), marks=pytest.mark.slow)]
)
def test_states_of_every_shape_are_the_same_compiled(shape: tuple[int, ...]) -> None:
    z0 = 0.3 + torch.rand(20, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_same(*pair(z0, spec(), t1=0.5, times=torch.tensor([0.2, 0.4]), outputs="interpolate"))


def test_fields_of_one_architecture_share_a_graph_and_keep_their_own_weights() -> None:
    fields = [build_field(Conv1dField(channels=3, activation="tanh"), (1, 2)).double() for _ in range(2)]
    for seed, field in enumerate(fields):
        initialise(field, torch.Generator().manual_seed(seed))
    z0 = starts(20).unsqueeze(1)
    before = graphs()
    with torch.no_grad():
        for field in fields:
            chain = field.for_states((1, 2))
            calls: list[int] = []
            field.before_evaluation = lambda calls=calls: calls.append(1)
            eager = solve(chain, z0, spec(), compilation="never")
            compiled = solve(field.for_states((1, 2)), z0, spec(), compilation="always")
            assert compiled.execution.path == "compiled"
            assert compiled.execution.lowered
            assert_same(eager, compiled)
            assert calls  # the hook is called although the graph knows nothing of it
    assert graphs() == before + 1


def test_steps_of_a_grid_share_a_graph_over_numbers_of_steps_and_intervals() -> None:
    before = graphs()
    with torch.no_grad():
        for steps, t1 in ((3, 1.0), (7, 0.5), (4, -1.0)):
            solver = SolverSpec(method="bosh3", steps=steps)
            eager = solve(bernoulli, starts(8), solver, t1=t1, compilation="never")
            compiled = solve(bernoulli, starts(8), solver, t1=t1, compilation="always")
            assert (eager.execution.path, compiled.execution.path) == ("eager", "compiled")
            assert_same(eager, compiled)
    assert graphs() == before + 1


def test_a_convolution_over_images_is_compiled_with_the_weights_of_the_moment() -> None:
    field = build_field(Conv2dField(channels=2), (1, 4, 4))
    z0, solver = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)), SolverSpec(method="euler", steps=3)
    with torch.no_grad():
        for seed in range(2):
            initialise(field, torch.Generator().manual_seed(seed))
            eager = solve(field, z0, solver, compilation="never")
            compiled = solve(field, z0, solver, compilation="always")
            assert compiled.execution.path == "compiled"
            # float32, the sums of convolutions in another order.
            assert torch.allclose(eager.final, compiled.final, rtol=1e-5, atol=1e-6)
        field.before_evaluation = lambda: None
        assert solve(field, z0, solver, compilation="always").execution.path == "eager"
    field.before_evaluation = None
    with_graph = solve(field, z0, solver, compilation="always")
    assert with_graph.execution.path == "eager"
    assert "torch.no_grad()" in with_graph.execution.reason
    assert with_graph.final.requires_grad


def test_a_kind_of_step_is_compiled_once_its_eager_steps_have_taken_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def stand_in(function: object, **options: object) -> object:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    first = solve(bernoulli, starts(4), spec())
    assert (first.execution.path, compiled) == ("eager", [])
    assert "too few steps" in first.execution.reason
    monkeypatch.setattr(compilation, "BREAK_EVEN", 0.0)
    second = solve(bernoulli, starts(4), spec())
    assert (second.execution.path, len(compiled)) == ("compiled", 1)
    assert "as long as compiling" in second.execution.reason
    third = solve(bernoulli, starts(4), spec(), compilation="never")
    assert (third.execution.path, third.execution.reason) == ("eager", "compilation is off")
    assert torch.equal(first.final, second.final)


def test_without_a_compiler_steps_run_eagerly_and_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: object, **options: object) -> object:
        def fail(*arguments: object) -> object:
            raise RuntimeError("no C++ compiler was found\nand a second line")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    eager = solve(bernoulli, starts(5), spec(), compilation="never")
    with caplog.at_level(logging.WARNING):
        fallen_back = solve(bernoulli, starts(5), spec(), compilation="always")
    assert fallen_back.execution.path == "eager"
    assert fallen_back.execution.reason == "could not be compiled: RuntimeError: no C++ compiler was found"
    assert "no C++ compiler was found" in caplog.text
    assert torch.equal(eager.final, fallen_back.final)
    assert torch.equal(eager.evaluations, fallen_back.evaluations)


def test_steps_with_gradients_are_not_compiled_and_say_so() -> None:
    z0 = starts(3).requires_grad_()
    solution = solve(bernoulli, z0, spec(), compilation="always")
    assert (solution.execution.path, solution.execution.reason) == ("eager", "gradients are wanted")


def test_fields_that_cannot_be_known_to_be_functions_of_their_tensors_are_not_compiled() -> None:
    class Counting:
        calls = 0

        def __call__(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return bernoulli(t, z)

    field = Counting()
    solution = solve(field, starts(3), spec(), compilation="always")
    assert solution.execution.path == "eager"
    assert field.calls > 0
    assert as_functional(Counting()) is None
    training = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    assert as_functional(training) is None
    assert as_functional(training.eval()) is not None


def test_modules_with_hooks_are_not_compiled() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert as_functional(module) is not None
    module[0].register_forward_hook(lambda *arguments: None)
    assert as_functional(module) is None


def test_a_graph_that_fails_after_it_has_run_leaves_the_rest_to_eager_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_down(function: object, **options: object) -> object:
        calls = []

        def run(*arguments: object) -> object:
            calls.append(1)
            if len(calls) > 3:
                raise RuntimeError("recompile limit")
            return function(*arguments)  # type: ignore[operator]

        return run

    monkeypatch.setattr(torch, "compile", breaks_down)
    eager = solve(bernoulli, starts(5), spec(), t1=1.5, times=TIMES, compilation="never")
    broken = solve(bernoulli, starts(5), spec(), t1=1.5, times=TIMES, compilation="always")
    assert "recompile limit" in broken.execution.reason
    assert_same(eager, broken)
    with torch.no_grad():
        solver = SolverSpec(method="rk4", steps=9)
        grid = solve(bernoulli, starts(5), solver, compilation="always")
        assert torch.allclose(grid.final, solve(bernoulli, starts(5), solver, compilation="never").final, rtol=1e-13)


def test_a_field_that_is_compiled_again_and_again_is_given_up() -> None:
    class Counting(torch.nn.Module):
        factor = 1.0

        def forward(self, t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            return -self.factor * z

    field, solver = Counting(), SolverSpec(method="euler", steps=2)
    with torch.no_grad():
        for number in range(5):
            field.factor = 1.0 + number
            solution = solve(field, starts(3), solver, compilation="always")
            assert torch.allclose(solution.final, starts(3) * (1 - field.factor / 2) ** 2, rtol=1e-13)
    assert solution.execution.path == "eager"
    assert "changes" in solution.execution.reason


def test_a_field_that_nobody_uses_is_not_kept() -> None:
    def field(t: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return -z

    solve(field, starts(3), spec())
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


def test_only_the_last_kinds_are_kept() -> None:
    first = kind_of_step("first")
    assert kind_of_step("first") is first
    with torch.inference_mode():
        assert kind_of_step("first") is not first
    for number in range(compilation._MOST_KINDS):
        kind_of_step(number)
    assert kind_of_step("first") is not first


def test_a_kind_whose_owner_is_gone_is_not_that_of_another() -> None:
    class Owner:
        pass

    one, other = Owner(), Owner()
    first = kind_of_step("same key", weakref.ref(one))
    assert kind_of_step("same key", weakref.ref(one)) is first
    assert kind_of_step("same key", weakref.ref(other)) is not first


def test_a_kind_is_due_when_it_is_asked_for_or_has_paid() -> None:
    kind = KindOfStep()
    assert [kind.is_due(mode) for mode in ("auto", "always", "never")] == [False, True, False]
    kind.seconds = compilation.BREAK_EVEN
    assert [kind.is_due(mode) for mode in ("auto", "always", "never")] == [True, True, False]
