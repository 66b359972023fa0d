import dataclasses
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy.integrate import DOP853, RK45

from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.interpolants import Interpolant
from ode_core.solvers.tableaus import ButcherTableau
from ode_core.specs import METHODS

INTERPOLATED = [name for name, tableau in TABLEAUS.items() if tableau.interpolant is not None]


def interpolant(name: str) -> Interpolant:
    found = TABLEAUS[name].interpolant
    assert found is not None
    return found


def replaced(name: str, **changes: object) -> ButcherTableau:
    """The tableau with its interpolant changed; made anew, so it checks itself."""
    return dataclasses.replace(TABLEAUS[name], interpolant=dataclasses.replace(interpolant(name), **changes))


@pytest.mark.parametrize("name", list(TABLEAUS))
def test_the_order_that_users_see_is_that_of_the_interpolant(name):
    found = TABLEAUS[name].interpolant
    assert METHODS[name].dense_output_order == (3 if found is None else found.order)


@pytest.mark.parametrize("name", list(TABLEAUS))
def test_the_error_within_a_step_is_of_the_order_of_the_error_at_its_end(name):
    assert METHODS[name].dense_output_order + 1 >= METHODS[name].order


@pytest.mark.parametrize("name", INTERPOLATED)
def test_the_order_is_the_one_stated_and_no_higher(name):
    with pytest.raises(ValueError, match="continuous order condition"):
        replaced(name, order=interpolant(name).order + 1)


@pytest.mark.parametrize("name", INTERPOLATED)
def test_a_single_wrong_weight_is_refused(name):
    found = interpolant(name)
    off = max(Fraction(1, 10**30), 10**4 * found.coefficient_error)
    for i, row in enumerate(found.weights):
        j = i % found.degree  # one for each stage, over all powers: each try checks the tableau of order 8 anew
        wrong = (*row[:j], row[j] + off, *row[j + 1 :])
        with pytest.raises(ValueError, match="does not end in b"):
            replaced(name, weights=(*found.weights[:i], wrong, *found.weights[i + 1 :]))
        other = (j + 1) % found.degree
        wrong = tuple(w + off * ((p == j) - (p == other)) for p, w in enumerate(row))
        with pytest.raises(ValueError, match="continuous order condition"):
            replaced(name, weights=(*found.weights[:i], wrong, *found.weights[i + 1 :]))


def test_a_single_wrong_weight_of_a_further_stage_is_refused():
    found = interpolant("dopri8")
    for i, row in enumerate(found.extra):
        for j in (0, 6, len(row) - 1):
            wrong = (*row[:j], row[j] + Fraction(1, 10**18), *row[j + 1 :])
            with pytest.raises(ValueError, match="continuous order condition"):
                replaced("dopri8", extra=(*found.extra[:i], wrong, *found.extra[i + 1 :]))


def test_rows_of_the_wrong_length_are_refused():
    weights = interpolant("dopri5").weights
    with pytest.raises(ValueError, match="each power"):
        replaced("dopri5", weights=(weights[0][:-1], *weights[1:]))
    with pytest.raises(ValueError, match="one row of weights for each stage"):
        replaced("dopri5", weights=weights[:-1])
    with pytest.raises(ValueError, match="row i"):
        replaced("dopri8", extra=((Fraction(1),), *interpolant("dopri8").extra[1:]))


@pytest.mark.parametrize("name", INTERPOLATED)
def test_the_slopes_at_both_ends_are_the_first_and_the_last_stage(name):
    # So that the interpolants of successive steps join without a kink.
    found = interpolant(name)
    stages = TABLEAUS[name].stages
    for i, row in enumerate(found.weights):
        at_start, at_end = row[0], sum(j * w for j, w in enumerate(row, start=1))
        assert at_start == (i == 0)
        assert abs(at_end - (i == stages - 1)) <= 10 * found.coefficient_error


def decimals(row: tuple[Fraction, ...]) -> list[Decimal]:
    return [Decimal(w.numerator) / w.denominator for w in row]


@pytest.mark.parametrize("name", INTERPOLATED)
def test_the_error_within_a_step_falls_with_one_power_more_than_the_order(name):
    # z' = -2 t z^2 from z(1/2) = 1 has the solution 1 / (t^2 + 3/4); with 40 digits, as the errors of order 7 are tiny.
    tableau, found = TABLEAUS[name], interpolant(name)
    largest = []
    with localcontext(prec=40):
        t0, z0 = Decimal("0.5"), Decimal(1)
        for h in (Decimal(1) / 64, Decimal(1) / 128):
            slopes: list[Decimal] = []
            for row in map(decimals, (*tableau.a, *found.extra)):
                t, z = t0 + h * sum(row), z0 + h * sum(w * k for w, k in zip(row, slopes, strict=True))
                slopes.append(-2 * t * z * z)
            errors = []
            for theta in (Decimal(k) / 10 for k in range(1, 10)):
                powers = [theta**j for j in range(1, found.degree + 1)]
                weights = [sum(w * p for w, p in zip(decimals(row), powers, strict=True)) for row in found.weights]
                value = z0 + h * sum(w * k for w, k in zip(weights, slopes, strict=True))
                errors.append(abs(value - 1 / ((t0 + theta * h) ** 2 + Decimal("0.75"))))
            largest.append(float(max(errors)))
    assert np.log2(largest[0] / largest[1]) == pytest.approx(found.order + 1, abs=0.3)


def test_dopri5s_weights_are_scipys():
    weights = [[float(w) for w in row] for row in interpolant("dopri5").weights]
    np.testing.assert_allclose(weights, RK45.P, rtol=1e-14)


@pytest.mark.parametrize("theta", [0.1, 0.37, 0.5, 0.93])
def test_dopri8s_values_are_those_of_scipys_dense_output(theta):
    rate = -1.3

    def field(t: float, z: np.ndarray) -> np.ndarray:
        return rate * np.sin(z + t)

    stepper = DOP853(field, 0.0, np.array([0.4]), 1.0, first_step=0.7, rtol=1e-3, atol=1e-3)
    stepper.step()
    h = stepper.t
    tableau, found = TABLEAUS["dopri8"], interpolant("dopri8")
    slopes: list[float] = []
    for row in (*tableau.a, *found.extra):
        t = h * float(sum(row))
        slopes.append(float(field(t, 0.4 + h * sum(float(w) * k for w, k in zip(row, slopes, strict=True)))))
    powers = theta ** np.arange(1, found.degree + 1)
    value = 0.4 + h * sum(k * powers.dot([float(w) for w in row]) for k, row in zip(slopes, found.weights, strict=True))
    # Weights of up to about 2000 cancel: as many roundings.
    assert value == pytest.approx(stepper.dense_output()(theta * h)[0], abs=2000 * np.finfo(float).eps)
