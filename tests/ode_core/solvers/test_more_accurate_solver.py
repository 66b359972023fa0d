import pytest
from hypothesis import given
from hypothesis import strategies as st

from ode_core.solvers.more_accurate_solver import more_accurate_solver, steps_for
from ode_core.specs import MethodName


def test_one_over_n_makes_n_steps() -> None:
    assert all(steps_for(1 / n) == n for n in range(1, 5001))


@given(st.floats(1e-4, 1.0))
def test_any_other_step_makes_the_least_number_that_is_at_most_as_large(step: float) -> None:
    steps = steps_for(step)
    assert 1 / steps <= step * (1 + 1e-9)
    assert steps == 1 or 1 / (steps - 1) > step * (1 - 1e-9)


@pytest.mark.parametrize(
    ("method", "steps", "test_method", "test_steps"),
    [
        ("euler", 100, "midpoint", 100),  # fine enough: the same step
        ("euler", 51, "midpoint", 51),
        ("euler", 50, "midpoint", 50),  # sqrt(1/50/50) = 1/50
        ("euler", 2, "midpoint", 10),  # sqrt(1/2/50) = 1/10
        ("euler", 1, "midpoint", 8),  # sqrt(1/50) = 1/7.07
        ("midpoint", 10, "rk4", 10),  # 1/h^2 = 100 > 50
        ("midpoint", 7, "rk4", 8),  # (1/49/50)^(1/4) = 1/7.04
        ("midpoint", 2, "rk4", 4),  # (1/4/50)^(1/4) = 1/3.76
        ("midpoint", 1, "rk4", 3),  # (1/50)^(1/4) = 1/2.66
    ],
)
def test_the_papers_test_solver(method: MethodName, steps: int, test_method: MethodName, test_steps: int) -> None:
    assert more_accurate_solver(method, 1 / steps) == (test_method, test_steps)


def test_the_paper_names_no_test_solver_for_other_methods() -> None:
    with pytest.raises(ValueError, match="rk4"):
        more_accurate_solver("rk4", 0.1)
