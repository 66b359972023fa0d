"""Crossing map and fan: where along the depth."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ode_core.audit.crossing_map import MOST_STRETCHES, crossing_map
from ode_core.audit.error_transport import ErrorTransport, margin_attribution
from ode_core.audit.fan_quantiles import fan_quantiles
from ode_core.audit.mechanism import find_mechanism
from ode_core.audit.reference import converged_reference
from ode_core.audit.step_grid import StepGrid, fixed_grid
from ode_core.audit.step_spectrum import StepSpectrum
from ode_core.models.predictions import predict
from ode_core.specs import SolverSpec
from tests.ode_core.audit.linear_models import Explosion, circle, classifier_around, rotation


def spectrum(flagged: torch.Tensor, grid: StepGrid, method: str = "dense") -> StepSpectrum:
    nothing = torch.zeros_like(flagged)
    return StepSpectrum(
        method=method,  # type: ignore[arg-type]
        least_real=flagged.double(),
        flagged=flagged,
        paired=nothing,
        certified=nothing,
        decided=~nothing,
        taken=grid.taken,
    )


def test_a_stretch_has_the_share_of_its_steps_that_are_flagged() -> None:
    grid = fixed_grid(SolverSpec(method="euler", steps=130), 4, 1.0)
    flagged = torch.zeros(130, 4, dtype=torch.bool)
    flagged[0:3] = True  # the first stretch: 130 steps make 44 stretches of 3, the last of 1
    flagged[3, 0] = True

    found = crossing_map(spectrum(flagged, grid), grid)

    assert len(found.flagged) == 44 <= MOST_STRETCHES
    assert found.bounds == [*range(0, 130, 3), 130]
    assert found.steps == [12] * 43 + [4]
    assert found.flagged[:3] == [1.0, 1 / 12, 0.0]
    np.testing.assert_allclose(found.times, np.array(found.bounds) / 130)


def test_a_sample_that_has_arrived_makes_no_steps() -> None:
    ends = torch.tensor([[0.5, 1.0], [1.0, 1.0]], dtype=torch.float64)
    starts = torch.tensor([[0.0, 0.0], [0.5, 1.0]], dtype=torch.float64)
    grid = StepGrid(starts, ends - starts, ends)
    flagged = torch.tensor([[False, True], [True, False]])

    found = crossing_map(spectrum(flagged, grid, "arnoldi"), grid)

    assert found.steps == [2, 1]
    assert found.flagged == [0.5, 1.0]
    assert found.certified is None
    assert found.times == [0.0, 0.5, 1.0]


def test_the_fan_of_a_rotation_is_that_of_its_formula() -> None:
    angle, steps, samples = 2.0, 4, 100
    model, inputs, solver = rotation(angle), circle(samples), SolverSpec(method="euler", steps=steps)
    trained, reference = predict(model, inputs, solver), converged_reference(model, inputs)
    found = find_mechanism(model, inputs, trained.labels, solver, reference.predictions.labels)
    assert found.transport is not None
    assert found.margins is not None

    fan = fan_quantiles(found.transport, found.margins, found.grid)

    # One Euler step multiplies by 1 + i h, the flow by exp(i h): V_k multiplies by k and the rest of them.
    h = angle / steps
    v = [(1 + 1j * h) ** k * np.exp(1j * h * (steps - k)) for k in range(steps + 1)]
    assert fan.samples == samples
    assert fan.flipped == int(trained.flips(reference.predictions).sum())
    for k, quantiles in enumerate(fan.end):
        for value in quantiles.values():
            assert value == pytest.approx(abs(v[k + 1] - v[k]), rel=1e-2)
    assert all(path["p90"] < 0 for path in fan.path_of_flipped[:1])
    assert fan.path_of_flipped[-1]["p10"] > 0
    assert fan.times == [0.0, 0.25, 0.5, 0.75, 1.0]
    starts = circle(samples).double().numpy() @ np.array([1, 1j])
    own = np.where((starts * v[-1]).real > 0, 1, -1)
    added = np.array([2 * own * (starts * (b - a)).real for a, b in pairwise(v)])
    medians = [quantiles["median"] for quantiles in fan.margin]
    np.testing.assert_allclose(medians, np.quantile(added, 0.5, axis=1, method="inverted_cdf"), atol=2e-3)


def test_the_turning_time_of_a_sample_is_where_its_margin_becomes_positive() -> None:
    angle, steps, samples = 2.0, 4, 100
    model, inputs, solver = rotation(angle), circle(samples), SolverSpec(method="euler", steps=steps)
    trained, reference = predict(model, inputs, solver), converged_reference(model, inputs)
    found = find_mechanism(model, inputs, trained.labels, solver, reference.predictions.labels)

    h = angle / steps
    for sample, time in found.turning_time_by_sample.items():
        place = (sample + 0.5) * 2 * math.pi / samples
        sides = [math.cos(place + k * math.atan(h) + (steps - k) * h) > 0 for k in range(steps + 1)]
        last = max(k for k in range(steps) if sides[k] != sides[-1])
        assert time == (last + 1) / steps
    assert len(found.turning_time_by_sample) == len(found.turning_times) > 0


def test_the_map_ends_with_the_last_step_of_the_samples_looked_at() -> None:
    # z' = z^2 from 2 ends at t = 1/2: that solve makes many steps and fails, and is not looked at.
    inputs = torch.cat([torch.full((1, 2), 2.0), torch.full((9, 2), -0.5)])
    model, solver = classifier_around(Explosion()), SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3)
    trained = predict(model, inputs, solver)
    assert trained.failures == 1

    found = find_mechanism(model, inputs, trained.labels, solver, trained.labels, stretches=None)

    told = found.to_json()
    steps = told["steps"]
    assert found.samples.tolist() == list(range(1, 10))
    assert told["crossing"]["map"]["steps"] == [9] * steps
    assert len(found.states) - 1 == steps
    assert told["transport"]["step_bounds"] == list(range(steps + 1))


def test_a_last_step_without_a_length_is_none() -> None:
    # As torchdiffeq rounds, 59 times 3 / 59 is 3 and a sixtieth step is made, of length 0.
    solver = SolverSpec(method="euler", step_size=3 / 59, grid="truncate")
    grid = fixed_grid(solver, 2, 3.0, torch.float32)
    assert (grid.steps, float(grid.lengths[-1, 0])) == (60, 0.0)

    made = grid.without_idle_end()

    assert made.steps == 59
    assert bool(made.taken.all())
    assert made.arrives.tolist() == [3.0, 3.0]


def test_a_sample_whose_error_has_no_finite_size_is_left_out_of_the_fan() -> None:
    # Each number is finite; the square of 1e200 is not.
    ends = torch.tensor([[[1.0, 0.0], [1e200, 1e200]], [[4.0, 4.0], [0.0, 1.0]]], dtype=torch.float64)
    nothing = torch.zeros(2, dtype=torch.float64)
    transport = ErrorTransport([0, 1], ends, nothing, nothing, torch.tensor([True, True]), 0)
    grid = fixed_grid(SolverSpec(method="euler", steps=1), 2, 1.0)

    fan = fan_quantiles(transport, margin_attribution(transport, lambda z: z), grid)

    assert fan.samples == 1
    assert fan.end == [{"p10": 5.0, "median": 5.0, "p90": 5.0}]
