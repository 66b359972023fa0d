import dataclasses
from fractions import Fraction

import numpy as np
import pytest

from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS, DiagonallyImplicitTableau
from ode_core.specs import METHODS

METHOD_NAMES = [name for name, facts in METHODS.items() if facts.family == "implicit"]
HALF = Fraction(1, 2)


def r(name: str, z: np.ndarray) -> np.ndarray:
    """The stability function."""
    numerator, denominator = IMPLICIT_TABLEAUS[name].stability_function
    above, below = (np.polynomial.Polynomial([float(c) for c in row]) for row in (numerator, denominator))
    return above(z) / below(z)


def test_every_implicit_method_has_a_tableau_and_no_tableau_lacks_a_method():
    assert set(IMPLICIT_TABLEAUS) == set(METHOD_NAMES)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_facts_that_users_see_are_those_of_the_tableau(name):
    facts, tableau = METHODS[name], IMPLICIT_TABLEAUS[name]
    assert facts.order == tableau.order
    assert facts.stages == tableau.stages
    assert facts.embedded_order == tableau.embedded_order
    assert facts.first_same_as_last == tableau.first_same_as_last
    assert facts.stability_limit is None


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_order_is_the_one_stated_and_no_higher(name):
    tableau = IMPLICIT_TABLEAUS[name]
    with pytest.raises(ValueError, match="order condition"):
        dataclasses.replace(tableau, order=tableau.order + 1)
    if tableau.embedded_order is not None:
        with pytest.raises(ValueError, match="order condition"):
            dataclasses.replace(tableau, embedded_order=tableau.embedded_order + 1)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_any_single_wrong_coefficient_is_refused(name):
    tableau = IMPLICIT_TABLEAUS[name]
    off = Fraction(1, 10**12)
    for i, row in enumerate(tableau.a):
        with pytest.raises(ValueError, match="order condition"):
            dataclasses.replace(tableau, b=(*tableau.b[:i], tableau.b[i] + off, *tableau.b[i + 1 :]))
        for j in range(len(row)):
            wrong = (*row[:j], row[j] + off, *row[j + 1 :])
            with pytest.raises(ValueError, match=r"order condition|diagonal"):
                dataclasses.replace(tableau, a=(*tableau.a[:i], wrong, *tableau.a[i + 1 :]))


def test_rows_beyond_the_diagonal_and_unequal_diagonals_are_refused():
    with pytest.raises(ValueError, match="row i"):
        DiagonallyImplicitTableau(1, a=((),), b=(Fraction(1),))
    with pytest.raises(ValueError, match="diagonal"):
        DiagonallyImplicitTableau(1, a=((HALF,), (HALF, Fraction(1))), b=(HALF, HALF))
    with pytest.raises(ValueError, match="diagonal"):
        DiagonallyImplicitTableau(1, a=((-HALF,),), b=(Fraction(1),))


def test_kvaerno3_has_the_published_coefficients():
    # Kvaerno 2004, method 3/2: the diagonal element is the middle root of x^3 - 3x^2 + 3x/2 - 1/6.
    g = np.sort(np.roots([1, -3, 1.5, -1 / 6]))[1]
    expected = [
        [0],
        [g, g],
        [(-4 * g**2 + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g), g],
        [(6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g**2 + 6 * g - 1) / (6 * g - 3), g],
    ]
    tableau = IMPLICIT_TABLEAUS["kvaerno3"]
    for row, wanted in zip(tableau.a, expected, strict=True):
        np.testing.assert_allclose([float(w) for w in row], wanted, rtol=1e-13)
    np.testing.assert_allclose([float(c) for c in tableau.c], [0, 2 * g, 1, 1], rtol=1e-13)
    assert tableau.b == tableau.a[3]
    assert tableau.embedded == (*tableau.a[2], 0)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_stability_function_is_that_of_the_matrix_formula(name):
    # R(z) = det(I - zA + z 1 b^T) / det(I - zA): Hairer, Wanner II, IV.3, proposition 3.2.
    tableau = IMPLICIT_TABLEAUS[name]
    s = tableau.stages
    a = np.zeros((s, s))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = [float(w) for w in row]
    b = np.array([float(w) for w in tableau.b])
    for z in (-3.0, -0.7, 0.4, -2 + 3j, 5j):
        above = np.linalg.det(np.eye(s) - z * a + z * np.ones((s, 1)) * b)
        assert abs(r(name, z) - above / np.linalg.det(np.eye(s) - z * a)) < 1e-13


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_method_is_stable_in_the_whole_left_half_plane(name):
    # With all poles on the right, |R| <= 1 on the imaginary axis is enough: the maximum principle.
    assert IMPLICIT_TABLEAUS[name].gamma > 0
    far = np.logspace(-6, 9, 2000)
    # A few roundings of the polynomials: midpoint and trapezoid have exactly |R| = 1 on the axis.
    assert np.abs(r(name, 1j * far)).max() <= 1 + 1e-14
    assert np.abs(r(name, -far)).max() <= 1 + 1e-14


def test_only_kvaerno3_damps_the_stiffest_components_at_once():
    vanishing = set()
    for name in METHOD_NAMES:
        numerator, denominator = IMPLICIT_TABLEAUS[name].stability_function
        if len(numerator) < len(denominator):
            vanishing.add(name)
    assert vanishing == {"kvaerno3"}
    assert abs(r("kvaerno3", np.array(-1e8))) < 1e-7
