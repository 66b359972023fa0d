"""Every adaptive method on the problems of DETEST, against solutions in closed form and SciPy's DOP853."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ode_core.solvers.solve import solve
from ode_core.specs import METHODS, SolverSpec
from tests.ode_core.solvers.detest import END, GRAVITY, PLANETS, PROBLEMS, SUN, Problem, reference
from tests.ode_core.solvers.problems import ADAPTIVE

# What the tolerance of a step becomes after 20 units of time depends on the problem: in the orbits (D) an error of the
# speed makes one of the place that grows with time, thousands of tolerances for order 4 and above. Errors are
# proportional to the tolerance, so each method has one that leaves a factor of 1.2 or more to its bound. Methods of
# order 2 have one for each class, as a single one would cost them 10^5 steps. In float32, which cannot resolve 1e-8,
# tolerance and bound are larger by the same factor.
TOLERANCES = {
    "heun_euler": {"A": 4e-5, "B": 4e-5, "C": 2e-5, "D": 3.5e-6, "E": 1e-4},
    "fehlberg2": {"A": 1e-6, "B": 7e-8, "C": 2e-7, "D": 3.5e-8, "E": 5e-7},
    "bosh3": dict.fromkeys("ABCDE", 1e-6),
    "fehlberg45": dict.fromkeys("ABCDE", 7e-9),
    "dopri5": dict.fromkeys("ABCDE", 1e-8),
    "tsit5": dict.fromkeys("ABCDE", 1e-8),
    "dopri8": dict.fromkeys("ABCDE", 1e-8),
}


def bound(method: str) -> float:
    """What a result may be off by, relative to the larger of 1 and the solution."""
    return 4e-5 if METHODS[method].order >= 4 else 1e-3


def in_batches(letter: str) -> list[list[Problem]]:
    """A class's problems, those of one dimension together; the step control looks at each sample by itself anyway."""
    batches: dict[int, list[Problem]] = defaultdict(list)
    for problem in PROBLEMS:
        if problem.name[0] == letter:
            batches[problem.dimension].append(problem)
    return list(batches.values())


def side_by_side(problems: list[Problem]) -> Callable[[Tensor, Tensor], Tensor]:
    """A field whose sample ``i`` follows problem ``i``."""
    samples: dict[Callable[[Tensor, Tensor], Tensor], list[int]] = defaultdict(list)
    for i, problem in enumerate(problems):
        samples[problem.field].append(i)
    if len(samples) == 1:
        return problems[0].field
    order = torch.argsort(torch.tensor([i for which in samples.values() for i in which]))

    def field(t: Tensor, z: Tensor) -> Tensor:
        return torch.cat([one(t[which], z[which]) for one, which in samples.items()])[order]

    return field


def largest_error(method: str, letter: str, looser: float, dtype: torch.dtype) -> tuple[float, str]:
    errors = []
    for problems in in_batches(letter):
        z0 = torch.tensor([problem.start for problem in problems], dtype=dtype)
        tolerance = looser * TOLERANCES[method][letter]
        solver = SolverSpec(method=method, rtol=tolerance, atol=tolerance, max_steps=100_000)
        # fehlberg2's estimate is 85 times smaller than its error, so that float32 resolves more than it knows of.
        solution = solve(side_by_side(problems), z0, solver, t1=END, warn=method != "fehlberg2")
        assert solution.succeeded.all()
        assert solution.final.dtype == dtype
        for problem, final in zip(problems, solution.final.double().numpy(), strict=True):
            exact = reference(problem)
            errors.append((float(np.max(np.abs(final - exact) / np.maximum(1, np.abs(exact)))), problem.name))
    return max(errors)


@pytest.mark.parametrize("problem", [problem for problem in PROBLEMS if problem.exact], ids=lambda p: p.name)
def test_the_reference_is_the_solution_where_it_is_known(problem):
    # A reference at 1e-12, of which the orbits make up to 1e-10: far below what is asked of the methods.
    np.testing.assert_allclose(reference(problem), problem.exact(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["B1", "B3", "C5"])
def test_the_reference_keeps_what_the_equations_conserve(name):
    problem = next(problem for problem in PROBLEMS if problem.name == name)

    def conserved(z: np.ndarray) -> float:
        if name == "B1":  # Lotka and Volterra's integral
            return z[0] - np.log(z[0]) + 2 * (z[1] - np.log(z[1]))
        if name == "B3":  # the mass
            return z.sum()
        # The energy of sun and planets; the sun moves against the planets' momentum.
        place, velocity = z.reshape(2, 5, 3)
        masses = np.array(PLANETS)
        momentum = masses @ velocity
        kinetic = 0.5 * masses @ (velocity**2).sum(axis=1) - 0.5 * momentum @ momentum / (SUN + masses.sum())
        potential = -SUN * (masses / np.linalg.norm(place, axis=1)).sum()
        for j in range(5):
            for k in range(j):
                potential -= masses[j] * masses[k] / np.linalg.norm(place[j] - place[k])
        return kinetic + GRAVITY * potential

    start = np.array(problem.start)
    assert conserved(reference(problem)) == pytest.approx(conserved(start), rel=1e-10)


def test_the_set_is_complete():
    assert [problem.name for problem in PROBLEMS] == [
        f"{letter}{number}" for letter in "ABCDE" for number in range(1, 6)
    ]


@pytest.mark.parametrize("letter", "ABCDE")
@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_problem_is_solved(method, letter):
    error, problem = largest_error(method, letter, 1.0, torch.float64)
    assert error < bound(method), problem


@pytest.mark.parametrize("letter", "ABCDE")
@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_problem_is_solved_in_float32(method, letter):
    looser = 1000.0 if METHODS[method].order >= 4 else 30.0
    error, problem = largest_error(method, letter, looser, torch.float32)
    assert error < looser * bound(method), problem
