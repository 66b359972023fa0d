import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ode_core.audit import interventions
from ode_core.audit.exact_flow import ExactFlow, flow
from ode_core.audit.interventions import intervene, interventional_split, settled_intervention
from ode_core.audit.step_grid import StepGrid, fixed_grid, numerical_path
from ode_core.audit.step_spectrum import step_spectrum
from ode_core.models.predictions import NO_LABEL
from ode_core.solvers.solution import Field
from ode_core.solvers.step_map import step_map
from ode_core.specs import SolverSpec

ANGLE = 5.0


def matrix(t: float) -> np.ndarray:  # type: ignore[type-arg]
    """At first a contraction across the boundary, half-way a rotation."""
    a, b = math.cos(math.pi * t) ** 2, math.sin(math.pi * t) ** 2
    return np.array([[-3 * a, -ANGLE * b], [ANGLE * b, 0.0]])


def contraction_then_rotation(t: Tensor, z: Tensor) -> Tensor:
    a, b = torch.cos(math.pi * t) ** 2, torch.sin(math.pi * t) ** 2
    x, y = z[:, :1], z[:, 1:]
    return torch.cat([-3 * a * x - ANGLE * b * y, ANGLE * b * x], dim=1)


def exact_matrix(start: float, end: float) -> np.ndarray:  # type: ignore[type-arg]
    solved = solve_ivp(
        lambda t, y: (matrix(t) @ y.reshape(2, 2)).ravel(), (start, end), np.eye(2).ravel(), rtol=1e-11, atol=1e-12
    )
    return np.asarray(solved.y[:, -1].reshape(2, 2))


def circle(samples: int) -> Tensor:
    angles = (torch.arange(samples, dtype=torch.float64) + 0.5) * 2 * math.pi / samples
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def head(final: Tensor) -> Tensor:
    """Class 1 where the first coordinate is positive."""
    return torch.stack([-final[:, 0], final[:, 0]], dim=1)


def side(final: Tensor) -> Tensor:
    return (final[:, 0] > 0).long()


def test_the_split_is_that_of_the_matrices_of_the_steps() -> None:
    # Two Euler steps of 1/2: the first turns the x-axis over, as 1 - 3/2 < 0; the second rotates too little.
    z0, psi = circle(200), step_map(contraction_then_rotation, "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=2), 200, 1.0)
    flagged = step_spectrum(psi, grid, numerical_path(psi, grid, z0)).flagged
    assert flagged[0].all()
    assert not flagged[1].any()
    steps = [np.eye(2) + matrix(t) / 2 for t in (0.0, 0.5)]
    flows = [exact_matrix(0.0, 0.5), exact_matrix(0.5, 1.0)]

    def sides(first, second):  # type: ignore[no-untyped-def]
        return (z0.numpy() @ (second @ first).T)[:, 0] > 0

    trained, reference = sides(steps[0], steps[1]), sides(flows[0], flows[1])
    a, b = sides(flows[0], steps[1]), sides(steps[0], flows[1])
    labels = torch.from_numpy(trained).long()

    split = interventional_split(psi, grid, z0, flagged, head, labels, labels, torch.from_numpy(reference).long())

    lost, lost_a, lost_b = (float(np.mean(other != trained)) for other in (reference, a, b))
    assert split.trained.accuracy == 1.0
    assert split.reference.flip_rate == pytest.approx(lost)
    assert split.without_crossing.flip_rate == pytest.approx(lost_a)
    assert split.without_accumulation.flip_rate == pytest.approx(lost_b)
    for shares in (split.by_accuracy, split.by_flips):  # the labels are the trained predictions
        assert shares.crossing == pytest.approx(lost_a / lost)
        assert shares.accumulation == pytest.approx(lost_b / lost)
        assert shares.interaction == pytest.approx(1 - (lost_a + lost_b) / lost)
    assert 0.1 < lost_a / lost != pytest.approx(lost_b / lost)
    assert split.unconverged == 0


def test_nothing_replaced_is_the_solver_and_everything_replaced_is_the_flow() -> None:
    z0, psi = circle(7), step_map(contraction_then_rotation, "heun")
    grid = fixed_grid(SolverSpec(method="heun", steps=5), 7, 1.0)
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    assert torch.equal(intervene(psi, grid, z0, nothing, tolerance=1e-3), numerical_path(psi, grid, z0)[-1])
    everything = intervene(psi, grid, z0, ~nothing, tolerance=1e-10)
    expected = z0.numpy() @ exact_matrix(0.0, 1.0).T
    np.testing.assert_allclose(everything.numpy(), expected, rtol=1e-7, atol=1e-8)


def test_only_the_steps_that_are_named_are_replaced_sample_by_sample() -> None:
    z0, psi = circle(4), step_map(contraction_then_rotation, "euler")
    # Two samples go in halves, one in a whole step, and one not at all.
    lengths = torch.tensor([[0.5, 0.5, 1.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    ends = torch.tensor([[0.5, 0.5, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    grid = StepGrid(ends - lengths, lengths, ends)
    replaced = torch.tensor([[False, True, True, False], [True, False, False, False]])
    final = intervene(psi, grid, z0, replaced, tolerance=1e-10).numpy()
    steps = [np.eye(2) + matrix(t) / 2 for t in (0.0, 0.5)]
    maps = [
        exact_matrix(0.5, 1.0) @ steps[0],
        steps[1] @ exact_matrix(0.0, 0.5),
        exact_matrix(0.0, 1.0),
        np.eye(2),
    ]
    for i, expected in enumerate(maps):
        np.testing.assert_allclose(final[i], expected @ z0[i].numpy(), rtol=1e-7, atol=1e-8)


def test_steps_that_follow_each_other_are_replaced_by_one_flow_and_give_what_one_by_one_gives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, steps = 9, 6
    z0, psi = circle(samples), step_map(contraction_then_rotation, "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=steps), samples, 1.0)
    replaced = torch.rand(steps, samples, generator=torch.Generator().manual_seed(3)) < 0.6
    solved: list[tuple[float, float]] = []

    def watched(field: Field, states: Tensor, starts: Tensor, ends: Tensor, **options: Any) -> ExactFlow:
        solved.extend(zip(starts.tolist(), ends.tolist(), strict=True))
        return flow(field, states, starts, ends, **options)

    monkeypatch.setattr(interventions, "flow", watched)
    final = intervene(psi, grid, z0, replaced, tolerance=1e-11).numpy()

    runs = []
    for i in range(samples):
        z = z0[i].numpy()
        for exactly, group in itertools.groupby(range(steps), key=lambda k, i=i: bool(replaced[k, i])):  # type: ignore[misc]
            numbers = list(group)
            if exactly:
                runs.append((numbers[0] / steps, (numbers[-1] + 1) / steps))
            for k in numbers:
                one = exact_matrix(k / steps, (k + 1) / steps) if exactly else np.eye(2) + matrix(k / steps) / steps
                z = one @ z
        np.testing.assert_allclose(final[i], z, rtol=1e-7, atol=1e-8)
    assert len(runs) < int(replaced.sum())
    np.testing.assert_allclose(sorted(solved), sorted(runs), rtol=1e-15)


def test_a_prediction_of_an_intervention_is_that_of_the_exact_flow_and_one_that_explodes_has_none() -> None:
    # Two steps of 1/2, the second replaced: the exact end is known, and some samples end next to the boundary.
    samples = 500
    z0, psi = circle(samples), step_map(contraction_then_rotation, "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=2), samples, 1.0)
    replaced = torch.tensor([[False], [True]]).expand(2, samples)
    exact = z0.numpy() @ (exact_matrix(0.5, 1.0) @ (np.eye(2) + matrix(0.0) / 2)).T
    assert np.abs(exact[:, 0]).min() < 0.01
    predicted, unsettled = settled_intervention(psi, grid, z0, replaced, head)
    assert unsettled == 0
    np.testing.assert_array_equal(predicted.numpy(), exact[:, 0] > 0)
    explosion = step_map(lambda t, z: 100 * z**2, "euler")
    positive = torch.ones(3, 2, dtype=torch.float64)
    grid = fixed_grid(SolverSpec(method="euler", steps=1), 3, 1.0)
    predicted, unsettled = settled_intervention(explosion, grid, positive, torch.ones(1, 3, dtype=torch.bool), head)
    assert unsettled == 3
    assert (predicted == NO_LABEL).all()


def test_shares_of_a_loss_that_a_few_samples_make_are_not_given() -> None:
    z0, psi = circle(40), step_map(contraction_then_rotation, "euler")
    grid = fixed_grid(SolverSpec(method="euler", steps=2), 40, 1.0)
    trained = side(numerical_path(psi, grid, z0)[-1])
    reference = trained.clone()
    reference[:9] = 1 - reference[:9]
    flagged = torch.zeros(2, 40, dtype=torch.bool)
    split = interventional_split(psi, grid, z0, flagged, head, trained, trained, reference)
    assert split.by_accuracy.crossing is None
    assert split.by_flips.reason is not None
    assert "9 of 40 samples" in split.by_flips.reason


def test_samples_with_all_steps_or_none_flagged_are_not_run_again() -> None:
    def unreachable(t: Tensor, z: Tensor) -> Tensor:
        raise AssertionError("their predictions are known")

    grid = fixed_grid(SolverSpec(method="euler", steps=2), 24, 1.0)
    trained, reference = torch.zeros(24, dtype=torch.int64), torch.ones(24, dtype=torch.int64)
    flagged = (torch.arange(24) < 6).expand(2, 24)
    psi = step_map(unreachable, "euler")
    split = interventional_split(psi, grid, circle(24), flagged, head, trained, trained, reference)
    assert (split.without_crossing.flip_rate, split.without_accumulation.flip_rate) == (6 / 24, 18 / 24)
    assert (split.by_flips.crossing, split.by_flips.accumulation) == (0.25, 0.75)
    assert split.unconverged == 0
