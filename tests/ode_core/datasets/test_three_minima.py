import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ode_core.datasets import three_minima
from ode_core.datasets.three_minima import NotSettled, equilibria, flow, resting_minimum


def papers_field(t, z):
    """The equations as the paper writes them, not as the code evaluates them."""
    x, v = z
    slope = 1.2 * x**5 - 2.5 * x**4 - 0.768 * x**3 + 2.364 * x**2 + 0.176 * x - 0.192
    return [v, -slope - 0.2 * v]


def followed(point, duration):
    return solve_ivp(papers_field, (0.0, duration), point, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]


def starts(count, seed=0):
    return np.random.default_rng(seed).uniform((-1.0, -2.0), (2.0, 2.0), (count, 2))


def test_the_minima_are_the_papers():
    minima, maxima = equilibria()
    assert np.allclose(minima, [-0.8502, 0.2689, 1.8394], rtol=0, atol=1e-4)
    assert all(low < top < high for low, top, high in zip(minima, maxima, minima[1:], strict=False))
    for x in (*minima, *maxima):
        assert papers_field(0.0, (x, 0.0))[1] == pytest.approx(0.0, abs=1e-12)


def test_particles_end_where_scipys_dop853_takes_them():
    points = starts(40)
    ends = flow(points, 100.0)
    for point, end in zip(points, ends, strict=True):
        assert np.allclose(end, followed(point, 100.0), rtol=0, atol=1e-7)


def test_the_flow_is_of_fourth_order(monkeypatch):
    points = starts(20)
    exact = np.array([followed(point, 4.0) for point in points])
    errors = []
    for step in (0.005, 0.0025):
        monkeypatch.setattr(three_minima, "STEP", step)
        errors.append(np.abs(flow(points, 4.0) - exact).max())
    assert 3.7 < np.log2(errors[0] / errors[1]) < 4.3


def test_each_label_is_the_minimum_that_the_particle_is_at_in_the_end():
    points = starts(3000, seed=5)
    labels = resting_minimum(points)
    ends = flow(points, 100.0)
    minima = equilibria()[0]
    # By t = 100 an oscillation has shrunk by exp(-0.1 t), below 1e-4 of its start.
    assert np.abs(ends[:, 0] - minima[labels]).max() < 1e-3
    assert np.abs(ends[:, 1]).max() < 1e-3
    assert set(labels.tolist()) == {0, 1, 2}


def on_the_ridge(distance):
    return np.array([[equilibria()[1][0] + distance, 0.0]])


@pytest.mark.parametrize(("side", "label"), [(-1, 0), (1, 1)])
def test_a_particle_that_still_hangs_on_the_ridge_is_followed_until_it_has_decided(side, label, monkeypatch):
    monkeypatch.setattr(three_minima, "END", 20.0)
    start = on_the_ridge(side * 1e-15)
    assert abs(flow(start, 20.0)[0, 0] - start[0, 0]) < 1e-5
    assert np.allclose(followed(start[0], 100.0), [equilibria()[0][label], 0.0], rtol=0, atol=1e-2)
    assert resting_minimum(start).tolist() == [label]


def test_particles_without_a_label_are_an_error(monkeypatch):
    monkeypatch.setattr(three_minima, "END", 0.2)
    monkeypatch.setattr(three_minima, "LATEST", 0.2)
    with pytest.raises(NotSettled, match=r"2 particles have not settled by t = 0\.2"):
        resting_minimum(np.array([[0.0, 2.0], [1.0, -2.0], [0.26, 0.0]]))


def test_a_particles_end_does_not_depend_on_the_others(monkeypatch):
    points = starts(7)
    together = flow(points, 10.0)
    monkeypatch.setattr(three_minima, "_AT_ONCE", 2)
    assert np.array_equal(flow(points, 10.0), together)
