import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.linalg import logm
from torch import Tensor, nn

from ode_core.audit.exact_flow import flow
from ode_core.fields.modified_field import ModifiedFlow, euler_three_terms, euler_two_terms
from ode_core.fields.vector_fields import build_field
from ode_core.models.classifier import build_classifier
from ode_core.models.modified_classifier import with_modified_field
from ode_core.solvers.explicit_methods import TABLEAUS
from ode_core.solvers.implicit_tableaus import IMPLICIT_TABLEAUS
from ode_core.solvers.linearisation import dense_jacobian
from ode_core.solvers.solve import solve
from ode_core.solvers.step_map import TimeStep, step_map
from ode_core.specs import ClassifierSpec, ConcentricSpheresSpec, Conv1dField, MethodName, MlpField, SolverSpec
from ode_core.specs.modified_field import ModifiedFieldSpec

MATRIX = torch.tensor([[-0.7, 1.9, 0.2], [-1.3, 0.4, 0.9], [0.3, -0.8, -0.5]], dtype=torch.float64)


def linear(t: Tensor, z: Tensor) -> Tensor:
    return z @ MATRIX.T


def pendulum(t: Tensor, z: Tensor) -> Tensor:
    return torch.cat([z[:, 1:] + 0.2 * z[:, :1] ** 2, -2 * torch.sin(z[:, :1])], dim=1)


def pushed(t: Tensor, z: Tensor) -> Tensor:
    return pendulum(t, z) + torch.cos(2 * t) * z.flip(1)


def modified(method: MethodName, kind: str, h: float, field=linear, **settings):  # type: ignore[no-untyped-def]
    spec = ModifiedFieldSpec(solver=SolverSpec(method=method, steps=1), kind=kind, **settings)  # type: ignore[arg-type]
    return ModifiedFlow(field, spec, h)


def matrix_of(field) -> np.ndarray:  # type: ignore[no-untyped-def,type-arg]
    """Return the matrix of a linear field, from its values on the unit vectors."""
    return field(torch.zeros((), dtype=torch.float64), torch.eye(3, dtype=torch.float64)).T.numpy()


def log_of_step(method: MethodName, h: float) -> np.ndarray:  # type: ignore[type-arg]
    """Return ``log(R(h A)) / h`` by SciPy."""
    if method in IMPLICIT_TABLEAUS:
        above, below = (
            sum(float(c) * np.linalg.matrix_power(h * MATRIX.numpy(), k) for k, c in enumerate(row))
            for row in IMPLICIT_TABLEAUS[method].stability_function
        )
        return np.asarray(logm(np.linalg.solve(below, above))).real / h
    step, power = np.zeros((3, 3)), np.eye(3)
    for coefficient in TABLEAUS[method].stability_polynomial:
        step, power = step + float(coefficient) * power, power @ (h * MATRIX.numpy())
    return np.asarray(logm(step)).real / h


def slope(errors: list[float], sizes: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


@pytest.mark.parametrize(
    ("method", "kind", "settings", "order"),
    [
        ("euler", "series", {"terms": 2}, 2),
        ("euler", "series", {"terms": 3}, 3),
        ("euler", "iterates", {"terms": 2}, 2),
        ("euler", "iterates", {"terms": 5}, 5),
        ("euler", "local_error", {}, 2),
        ("midpoint", "iterates", {"terms": 4}, 4),
        ("midpoint", "local_error", {}, 3),
        ("heun3", "local_error", {}, 4),
        ("implicit_midpoint", "iterates", {"terms": 4}, 4),
        ("implicit_midpoint", "local_error", {}, 3),
        ("trapezoid", "iterates", {"terms": 5}, 5),
        ("kvaerno3", "iterates", {"terms": 4}, 4),
        ("kvaerno3", "local_error", {}, 4),
    ],
)
def test_the_modified_field_of_a_linear_step_is_its_logarithm_to_the_stated_order(
    method: MethodName, kind: str, settings: dict[str, int], order: int
) -> None:
    sizes = [0.1, 0.05, 0.025]
    errors = [
        float(np.abs(matrix_of(modified(method, kind, h, **settings)) - log_of_step(method, h)).max()) for h in sizes
    ]
    assert slope(errors, sizes) == pytest.approx(order, abs=0.2)


def test_the_series_of_a_linear_euler_step_are_the_first_terms_of_the_logarithm() -> None:
    h, A = 0.3, MATRIX.numpy()
    two, three = (matrix_of(modified("euler", "series", h, terms=terms)) for terms in (2, 3))
    np.testing.assert_allclose(two, A - h / 2 * A @ A, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(three, A - h / 2 * A @ A + h**2 / 3 * A @ A @ A, rtol=1e-13, atol=1e-14)
    iterates = matrix_of(modified("euler", "iterates", h, terms=3))
    np.testing.assert_allclose(iterates, three, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("field", [pendulum, pushed])
@pytest.mark.parametrize(
    ("method", "kind", "settings", "order"),
    [
        ("euler", "series", {"terms": 2}, 2),
        ("euler", "series", {"terms": 3}, 3),
        ("euler", "iterates", {"terms": 4}, 4),
        ("euler", "local_error", {}, 2),
        ("midpoint", "iterates", {"terms": 4}, 4),
        ("midpoint", "local_error", {}, 3),
        ("implicit_midpoint", "local_error", {}, 3),
        ("trapezoid", "iterates", {"terms": 5}, 5),
    ],
)
def test_the_exact_flow_of_the_modified_field_follows_the_coarse_solver(  # type: ignore[no-untyped-def]
    method: MethodName, kind: str, settings: dict[str, int], order: int, field
) -> None:
    z0 = torch.tensor([[0.6, -0.3], [-0.2, 0.9]], dtype=torch.float64)
    errors, counts = [], [8, 16, 32]
    for steps in counts:
        coarse = solve(field, z0, SolverSpec(method=method, steps=steps)).final
        repaired = modified(method, kind, 1 / steps, field, **settings)
        fine = solve(repaired, z0, SolverSpec(method="dopri8", rtol=1e-9, atol=1e-9), compilation="never").final
        errors.append(float((fine - coarse).abs().max()))
        assert errors[-1] < 0.5 * float(
            (flow(field, z0, *torch.tensor([[0.0] * 2, [1.0] * 2])).ends - coarse).abs().max()
        )
    assert -slope(errors, [float(n) for n in counts]) == pytest.approx(order, abs=0.6)


def test_the_second_derivative_of_a_piecewise_linear_field_is_zero() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    z, h, t = torch.randn(7, 3, dtype=torch.float64), 0.2, torch.zeros((), dtype=torch.float64)
    found = euler_three_terms(lambda t, z: network(z), t, z, h)
    jacobians = torch.stack([torch.autograd.functional.jacobian(network, row) for row in z])
    f = network(z).detach()
    Jf = torch.einsum("bij,bj->bi", jacobians, f)
    JJf = torch.einsum("bij,bj->bi", jacobians, Jf)
    torch.testing.assert_close(found.detach(), f - h / 2 * Jf + h**2 / 3 * JJf)


def test_float32_is_float64_to_its_round_off() -> None:
    z = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    for kind in ("series", "iterates", "local_error"):
        field = modified("euler", kind, 1 / 16, pushed)
        single, double = field(torch.tensor(0.3), z), field(torch.tensor(0.3).double(), z.double())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single, double.float(), rtol=1e-4, atol=1e-4)


def test_times_of_each_samples_own_give_what_each_gives_alone() -> None:
    z = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([[0.1], [0.4], [0.2]], dtype=torch.float64)
    for kind in ("series", "iterates", "local_error"):
        field = modified("euler", kind, 0.1, pushed)
        together = field(times, z)
        for i in range(3):
            torch.testing.assert_close(together[i], field(times[i, 0], z[i : i + 1])[0], rtol=1e-13, atol=1e-13)


def test_a_classifier_with_a_modified_field_gives_the_coarse_solvers_logits_under_any_accurate_solver() -> None:
    spec = ClassifierSpec(field=Conv1dField(channels=8, activation="tanh", time_dependent=True), end_time=1.5)
    model = build_classifier(spec, ConcentricSpheresSpec(dimension=2), seed=3).double()
    inputs = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse = SolverSpec(method="euler", steps=24)
    exact = SolverSpec(method="dopri5", rtol=1e-7, atol=1e-7)
    expected, before = (model.predict(inputs, solver).logits for solver in (coarse, exact))
    for kind in ("series", "iterates"):
        repaired = with_modified_field(model, ModifiedFieldSpec(solver=coarse, kind=kind))  # type: ignore[arg-type]
        for solver in (exact, SolverSpec(method="rk4", steps=200)):
            with torch.inference_mode():
                logits = repaired.predict(inputs, solver).logits
            assert float((logits - expected).abs().max()) < 0.05 * float((before - expected).abs().max())
    assert torch.equal(model.predict(inputs, coarse).logits, expected)


def test_the_call_before_each_evaluation_reaches_the_field() -> None:
    calls: list[int] = []
    model = build_classifier(ClassifierSpec(field=Conv1dField(channels=4)), ConcentricSpheresSpec(dimension=2), seed=0)
    repaired = with_modified_field(model, ModifiedFieldSpec(solver=SolverSpec(method="euler", steps=4)))
    repaired.field.before_evaluation = lambda: calls.append(1)
    repaired.predict(torch.randn(3, 2), SolverSpec(method="euler", steps=2))
    assert len(calls) >= 2


def test_two_terms_of_the_scalar_equation_are_those_by_hand() -> None:
    # z' = z^2: f'f = 2 z^3, f''(f, f) = 2 z^4, f'f'f = 4 z^4.
    z, t = torch.tensor([[0.7]], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    h = 0.1
    two, three = (series(lambda t, z: z**2, t, z, h).item() for series in (euler_two_terms, euler_three_terms))
    assert two == pytest.approx(0.49 - h * 0.343, rel=1e-14)
    assert three == pytest.approx(0.49 - h * 0.343 + h**2 * 0.7**4 * (2 / 12 + 4 / 3), rel=1e-13)
    assert math.isfinite(three)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": {"method": "dopri5", "rtol": 1e-3, "atol": 1e-3}}, "one step size"),
        ({"solver": {"method": "euler", "step_size": 0.3, "grid": "truncate"}}, "equal steps"),
        ({"solver": {"method": "asynchronous_leapfrog", "steps": 4}}, "Runge-Kutta"),
        ({"solver": {"method": "implicit_midpoint", "steps": 4}}, "kind iterates or local_error"),
        ({"solver": {"method": "rk4", "steps": 4}}, "kind iterates"),
        ({"solver": {"method": "euler", "steps": 4}, "terms": 5}, "2 or 3 terms"),
        ({"solver": {"method": "euler", "steps": 4}, "kind": "local_error", "terms": 2}, "no terms"),
        ({"solver": {"method": "euler", "steps": 4}, "substeps": 8}, "local_error"),
    ],
)
def test_a_modified_field_that_does_not_exist_is_refused_with_the_remedy(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModifiedFieldSpec.model_validate(settings)


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [
        ("euler", "series", {"terms": 2}),
        ("euler", "series", {"terms": 3}),
        ("euler", "iterates", {"terms": 4}),
        ("rk4", "iterates", {"terms": 3}),
        ("euler", "local_error", {"substeps": 3}),
        ("rk4", "local_error", {"substeps": 2}),
    ],
)
def test_a_spec_knows_how_often_its_field_calls_the_models(
    method: MethodName, kind: str, settings: dict[str, int]
) -> None:
    calls = [0]

    def counted(t: Tensor, z: Tensor) -> Tensor:
        calls[0] += 1
        return linear(t, z)

    flow = modified(method, kind, 0.1, counted, **settings)
    flow(torch.zeros((), dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
    assert calls[0] == flow.spec.evaluations()


def test_with_an_implicit_method_that_number_is_a_usual_one_with_the_jacobians_of_each_step() -> None:
    iterates = ModifiedFieldSpec(solver=SolverSpec(method="kvaerno3", steps=4), kind="iterates", terms=2)
    # Three of its four stages are iterated five times; of Jacobians a first step takes 2.5 and one after it 1.
    assert iterates.evaluations() == 2 * (1 + 3 * 5)
    assert iterates.evaluations(4) == 2 * (1 + 3 * 5) + 3.5 * 4
    assert iterates.evaluations(10_000) == 2 * (1 + 3 * 5 + 256)
    local = ModifiedFieldSpec(solver=SolverSpec(method="trapezoid", steps=4), kind="local_error", substeps=2)
    assert local.evaluations(4) == 1 + (1 + 5) + 2.5 * 4 + 4 * 2


@pytest.mark.parametrize("size", [2, 16])
@pytest.mark.parametrize(
    ("method", "kind"),
    [("implicit_midpoint", "iterates"), ("kvaerno3", "iterates")]
    + [(method, "local_error") for method in ("implicit_midpoint", "trapezoid")],
)
def test_the_usual_number_is_about_what_is_counted(method: MethodName, kind: str, size: int) -> None:
    classifier = ClassifierSpec(field=MlpField(hidden=(64,), activation="tanh"))
    field = build_classifier(classifier, ConcentricSpheresSpec(dimension=size), seed=0).double().field
    for weights in field.requires_grad_(False).parameters():
        weights.mul_(2)  # as large as trained ones
    calls, jacobians = [0], [0]

    class Counted:
        def __call__(self, t: Tensor, z: Tensor) -> Tensor:
            calls[0] += 1
            return field(t, z)

        def jacobian(self, t: Tensor, z: Tensor) -> Tensor:
            jacobians[0] += 1
            return dense_jacobian(field, t, z)

    spec = ModifiedFieldSpec(solver=SolverSpec(method=method, steps=8), kind=kind)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(size)
    z = torch.randn(1, size, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        ModifiedFlow(Counted(), spec, 1 / 8)(torch.zeros((), dtype=torch.float64), z)
    counted = calls[0] + size * jacobians[0]
    assert 0.5 * spec.evaluations(size) <= counted <= 2 * spec.evaluations(size)


@pytest.mark.parametrize("method", ["implicit_midpoint", "trapezoid", "kvaerno3"])
def test_repeated_steps_are_those_made_one_by_one(method: MethodName) -> None:
    # With the Jacobians of the steps before, and solved to round-off all the same.
    field = build_field(MlpField(hidden=(8,), activation="tanh"), (3,)).double().requires_grad_(False)
    psi, h, one = step_map(field, method), 0.2, torch.ones((), dtype=torch.float64)
    steps = [TimeStep(one * k * h, one * h, one * (k + 1) * h) for k in range(4)]
    start = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, state = [], start
    for step in steps:
        state = psi(state, step)
        expected.append(state)
    for found, alone in zip(psi.repeated(start, steps), expected, strict=True):
        assert torch.allclose(found, alone, rtol=0, atol=1e-13)
