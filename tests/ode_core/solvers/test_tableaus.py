import dataclasses
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import RK23, RK45

from ode_core.solvers.tableaus import TABLEAUS, ButcherTableau, rooted_trees
from ode_core.specs import METHODS

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "explicit"]
PAIRS = [name for name in METHOD_NAMES if METHODS[name].adaptive]


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
        assert tableau.stability_polynomial[power] == 1 / factorial


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_weights_sum_to_one_and_error_weights_to_zero(name):
    tableau = TABLEAUS[name]
    assert sum(tableau.b) == 1
    if tableau.embedded is not None:
        assert sum(tableau.error) == 0


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_any_single_wrong_coefficient_is_refused(name):
    tableau = TABLEAUS[name]
    off = Fraction(1, 1000)
    for i in range(tableau.stages):
        with pytest.raises(ValueError, match="order condition"):
            dataclasses.replace(tableau, b=(*tableau.b[:i], tableau.b[i] + off, *tableau.b[i + 1 :]))
        for j in range(i):
            row = (*tableau.a[i][:j], tableau.a[i][j] + off, *tableau.a[i][j + 1 :])
            with pytest.raises(ValueError, match="order condition"):
                dataclasses.replace(tableau, a=(*tableau.a[:i], row, *tableau.a[i + 1 :]))


def test_a_row_that_is_not_strictly_lower_triangular_is_refused():
    with pytest.raises(ValueError, match="row i"):
        ButcherTableau(1, a=((Fraction(1),),), b=(Fraction(1),))


def test_the_number_of_rooted_trees_is_the_known_one():
    # Butcher, Numerical Methods for Ordinary Differential Equations, table 300: 1, 1, 2, 4, 9, 20, 48 trees.
    sizes = [len(rooted_trees(order)) for order in range(1, 8)]
    assert sizes == [1, 2, 4, 8, 17, 37, 85]


def test_only_methods_whose_last_stage_is_the_next_first_one_count_as_such():
    assert {name for name, tableau in TABLEAUS.items() if tableau.first_same_as_last} == {"bosh3", "dopri5"}


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


def test_tableaus_and_status_load_without_torch():
    code = (
        "import sys, ode_core.solvers.tableaus, ode_core.solvers.status, ode_core.datasets.files; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
