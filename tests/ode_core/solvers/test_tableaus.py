import dataclasses
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import DOP853, RK23, RK45

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.tableaus import ButcherTableau, rooted_trees
from ode_core.specs import METHODS

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "explicit"]
PAIRS = [name for name, facts in METHODS.items() if facts.adaptive]


def test_every_explicit_method_has_a_tableau_and_no_tableau_lacks_a_method():
    assert set(TABLEAUS) == set(METHOD_NAMES)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_facts_that_users_see_are_those_of_the_tableau(name):
    facts, tableau = METHODS[name], TABLEAUS[name]
    assert facts.order == tableau.order
    assert facts.stages == tableau.stages
    assert facts.embedded_order == tableau.embedded_order
    assert facts.first_same_as_last == tableau.first_same_as_last


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_stability_limit_is_where_the_stability_polynomial_leaves_the_unit_disc(name):
    # R(-x) = 1 at x = 0; the limit is the smallest positive x with R(-x) = 1 or R(-x) = -1 behind which |R| > 1.
    r = np.polynomial.Polynomial([float(c) for c in TABLEAUS[name].stability_polynomial])(
        np.polynomial.Polynomial([0.0, -1.0])
    )
    crossings = np.concatenate([(r - 1).roots(), (r + 1).roots()])
    real = np.sort(crossings[np.abs(crossings.imag) < 1e-6].real)
    limit = next(x for x in real[real > 1e-3] if abs(r(x + 1e-3)) > 1)
    assert round(limit, 2) == METHODS[name].stability_limit
    assert np.abs(r(np.linspace(0, limit, 10_000))).max() <= 1 + 1e-12


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_order_is_the_one_stated_and_no_higher(name):
    tableau = TABLEAUS[name]
    with pytest.raises(ValueError, match="order condition"):
        dataclasses.replace(tableau, order=tableau.order + 1)


@pytest.mark.parametrize("name", PAIRS)
def test_the_embedded_order_is_the_one_stated_and_no_higher(name):
    tableau = TABLEAUS[name]
    with pytest.raises(ValueError, match="order condition"):
        dataclasses.replace(tableau, embedded_order=tableau.embedded_order + 1)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_stability_polynomial_agrees_with_the_exponential_up_to_the_order(name):
    tableau = TABLEAUS[name]
    factorial = Fraction(1)
    for power in range(1, tableau.order + 1):
        factorial *= power
        assert abs(tableau.stability_polynomial[power] - 1 / factorial) <= tableau.coefficient_error


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_weights_sum_to_one_and_error_weights_to_zero(name):
    tableau = TABLEAUS[name]
    assert abs(sum(tableau.b) - 1) <= tableau.coefficient_error
    for error in (tableau.error, tableau.error_low) if METHODS[name].adaptive else ():
        assert error is None or abs(sum(error)) <= tableau.coefficient_error


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_any_single_wrong_coefficient_is_refused(name):
    tableau = TABLEAUS[name]
    # Exact fractions show any mistake; decimals of 30 digits one beyond what their own rounding excuses.
    off = max(Fraction(1, 10**30), 10**4 * tableau.coefficient_error)
    for i in range(tableau.stages):
        with pytest.raises(ValueError, match="order condition"):
            dataclasses.replace(tableau, b=(*tableau.b[:i], tableau.b[i] + off, *tableau.b[i + 1 :]))
        for j in range(i):
            row = (*tableau.a[i][:j], tableau.a[i][j] + off, *tableau.a[i][j + 1 :])
            with pytest.raises(ValueError, match="order condition"):
                dataclasses.replace(tableau, a=(*tableau.a[:i], row, *tableau.a[i + 1 :]))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_exact_coefficients_are_excused_nothing(name):
    assert (TABLEAUS[name].coefficient_error == 0) == (name not in ("tsit5", "dopri8"))


@pytest.mark.parametrize("name", PAIRS)
def test_any_single_wrong_weight_of_an_embedded_solution_is_refused(name):
    tableau = TABLEAUS[name]
    off = max(Fraction(1, 10**30), 10**4 * tableau.coefficient_error)
    for field in ("embedded", "embedded_low"):
        weights = getattr(tableau, field)
        for i in range(0 if weights is None else tableau.stages):
            with pytest.raises(ValueError, match="order condition"):
                dataclasses.replace(tableau, **{field: (*weights[:i], weights[i] + off, *weights[i + 1 :])})


@pytest.mark.parametrize("name", PAIRS)
def test_the_error_estimate_falls_with_the_power_of_the_step_it_is_said_to(name):
    # z' = z from 1: the estimates of one step, in exact fractions, at two short steps.
    tableau = TABLEAUS[name]

    def estimate(h: Fraction) -> float:
        slopes: list[Fraction] = []
        for row in tableau.a:
            slopes.append(1 + h * sum((w * k for w, k in zip(row, slopes, strict=True)), Fraction(0)))
        error, low = (
            0.0 if weights is None else float(h * sum(w * k for w, k in zip(weights, slopes, strict=True)))
            for weights in (tableau.error, tableau.error_low)
        )
        return error**2 / np.hypot(error, 0.1 * low)

    # The lower estimate outweighs the other where 0.1 h^4 is far above h^6.
    coarse, fine = estimate(Fraction(1, 100)), estimate(Fraction(1, 200))
    assert np.log2(coarse / fine) == pytest.approx(tableau.error_order, abs=0.1)


def test_a_method_without_an_error_estimate_has_no_order_of_it():
    with pytest.raises(ValueError, match="no embedded solution"):
        _ = TABLEAUS["rk4"].error_order


def test_a_lower_embedded_solution_needs_its_order_and_a_first_one():
    tableau = TABLEAUS["dopri8"]
    with pytest.raises(ValueError, match="belong together"):
        dataclasses.replace(tableau, embedded_low_order=None)
    with pytest.raises(ValueError, match="needs a first"):
        dataclasses.replace(tableau, embedded=None, embedded_order=None)


def test_a_row_that_is_not_strictly_lower_triangular_is_refused():
    with pytest.raises(ValueError, match="row i"):
        ButcherTableau(1, a=((Fraction(1),),), b=(Fraction(1),))


def test_the_number_of_rooted_trees_is_the_known_one():
    # Butcher, Numerical Methods for Ordinary Differential Equations, table 300: 1, 1, 2, 4, 9, 20, 48, 115 trees.
    sizes = [len(rooted_trees(order)) for order in range(1, 9)]
    assert sizes == [1, 2, 4, 8, 17, 37, 85, 200]


def test_only_methods_whose_last_stage_is_the_next_first_one_count_as_such():
    assert {name for name, tableau in TABLEAUS.items() if tableau.first_same_as_last} == {
        "bosh3",
        "dopri5",
        "tsit5",
        "dopri8",
    }


def test_fehlberg2_is_the_published_pair():
    # numerics.md, from Fehlberg 1969: c = [1/2, 1] after 0, error weights [-1/512, 0, 1/512].
    tableau = TABLEAUS["fehlberg2"]
    assert tableau.c == (0, Fraction(1, 2), 1)
    assert tableau.error == (Fraction(-1, 512), 0, Fraction(1, 512))


@pytest.mark.parametrize(("name", "scipy_method"), [("bosh3", RK23), ("dopri5", RK45)])
def test_coefficients_are_those_of_scipy(name, scipy_method):
    tableau = TABLEAUS[name]
    used = tableau.stages - 1  # SciPy keeps the last stage, the new slope, apart
    a = np.zeros((used, used))
    for i, row in enumerate(tableau.a[:used]):
        a[i, : len(row)] = [float(w) for w in row]
    np.testing.assert_allclose(a[:, : scipy_method.A.shape[1]], scipy_method.A, rtol=1e-15)
    np.testing.assert_allclose([float(w) for w in tableau.b[:used]], scipy_method.B, rtol=1e-15)
    np.testing.assert_allclose([float(c) for c in tableau.c[:used]], scipy_method.C, rtol=1e-15)
    # The sign of an error estimate is a convention: SciPy subtracts the other way round.
    np.testing.assert_allclose([-float(w) for w in tableau.error], scipy_method.E, rtol=1e-14, atol=1e-17)


def test_fehlberg45_is_the_published_pair():
    # Hairer, Norsett, Wanner I, table 5.1: nodes, and error weights of the pair 4(5).
    tableau = TABLEAUS["fehlberg45"]
    assert [str(c) for c in tableau.c] == ["0", "1/4", "3/8", "12/13", "1", "1/2"]
    assert [str(-e) for e in tableau.error] == ["1/360", "0", "-128/4275", "-2197/75240", "1/50", "2/55"]


def test_tsit5_is_the_published_pair():
    # Tsitouras 2011, table 1: nodes and error weights, with the sign of the last one put right.
    tableau = TABLEAUS["tsit5"]
    np.testing.assert_allclose(
        [float(c) for c in tableau.c], [0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1], rtol=1e-15
    )
    published = [0.001780011052226, 0.000816434459657, -0.007880878010262, 0.144711007173263]
    published += [-0.582357165452555, 0.458082105929187, -1 / 66]
    np.testing.assert_allclose([float(e) for e in tableau.error], published, rtol=0, atol=1e-15)


def test_dopri8_is_scipys_dop853():
    tableau = TABLEAUS["dopri8"]
    a = np.zeros((12, 12))
    for i, row in enumerate(tableau.a[:12]):
        a[i, :i] = [float(w) for w in row]
    np.testing.assert_allclose(a, DOP853.A, rtol=1e-15)
    np.testing.assert_allclose([float(w) for w in tableau.b], [*DOP853.B, 0], rtol=1e-15)
    np.testing.assert_allclose([float(c) for c in tableau.c[:12]], DOP853.C, rtol=1e-15)
    # Differences of numbers up to 7: a rounding of those.
    np.testing.assert_allclose([float(e) for e in tableau.error], DOP853.E5, rtol=0, atol=1e-15)
    np.testing.assert_allclose([float(e) for e in tableau.error_low], DOP853.E3, rtol=0, atol=1e-15)


def test_tableaus_and_status_load_without_torch():
    code = (
        "import sys, ode_core.solvers.explicit_methods, ode_core.solvers.status, ode_core.datasets.files; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
