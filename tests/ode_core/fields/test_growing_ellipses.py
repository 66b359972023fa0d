import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from ode_core.audit.audit import audit
from ode_core.datasets.load import load_dataset
from ode_core.fields.vector_fields import build_field
from ode_core.models.classifier import build_classifier
from ode_core.models.weights import load_classifier, weights_to_bytes
from ode_core.solvers.solve import solve
from ode_core.specs import (
    PRESETS,
    Budget,
    ClassifierSpec,
    GrowingEllipsesField,
    SolverSpec,
    TrainingJobSpec,
    XorSpec,
    check_training_budget,
    parameter_count,
)
from ode_core.training.checkpoint import Checkpoint
from ode_core.training.run import TrainingRun
from ode_core.training.stacked_run import require_stackable

T = torch.tensor(0.0)
CPU = torch.device("cpu")
XOR = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def papers_field(t, z):
    a, b, g, d = 0.09, 0.16, 9.3, 1.39
    return np.array([[a, 1.0], [-g * np.hypot(*z) ** d, b]]) @ z


def job(**changes):
    parts = {
        "name": "fan",
        "dataset": {"kind": "xor"},
        "model": {"kind": "preset", "name": "xor_fan"},
        "solver": {"method": "rk4", "steps": 100},
        "training": {"iterations": 30, "batch_size": 8, "learning_rate": 0.1},
    }
    return TrainingJobSpec.model_validate(parts | changes)


def new_run(spec):
    return TrainingRun(spec, load_dataset(spec.dataset, None), CPU)


def test_the_field_is_the_papers_formula():
    field = build_field(GrowingEllipsesField(), (2,))
    points = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.array([papers_field(0.0, z) for z in points.numpy()])
    assert np.allclose(field(T, points).numpy(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("solver", "tolerance", "compilation"),
    [
        ({"method": "dopri5"}, 1e-9, "never"),
        pytest.param({"method": "dopri5"}, 1e-9, "always", marks=pytest.mark.slow),
        ({"method": "kvaerno3"}, 1e-5, "never"),
    ],
)
def test_solves_agree_with_scipy_also_from_the_origin(solver, tolerance, compilation):
    field = build_field(GrowingEllipsesField(), (2,))
    solution = solve(
        field.for_states((2,)),
        XOR,
        SolverSpec(**solver, rtol=tolerance, atol=tolerance),
        t1=1.0,
        compilation=compilation,
    )
    for start, end in zip(XOR.numpy(), solution.final.numpy(), strict=True):
        exact = solve_ivp(papers_field, (0.0, 1.0), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
        assert np.allclose(end, exact, rtol=0, atol=200 * tolerance)


def test_derivatives_at_the_origin_are_numbers():
    field = build_field(GrowingEllipsesField(), (2,))
    jacobian = torch.func.jacfwd(lambda z: field(T, z[None])[0])(XOR[0])
    backward = torch.func.jacrev(lambda z: field(T, z[None])[0])(XOR[0])
    # |z|^d z has no linear part, so the linearisation is [[a, 1], [0, b]].
    expected = torch.tensor([[0.09, 1.0], [0.0, 0.16]], dtype=torch.float64)
    assert torch.allclose(jacobian, expected)
    assert torch.allclose(backward, expected)


@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "adjoint", "adjoint_seminorm"])
def test_gradients_by_the_start_are_the_same_in_every_mode(gradient):
    field = build_field(GrowingEllipsesField(), (2,))
    grads = []
    for mode in ("backprop", gradient):
        z0 = (XOR + 0.1).requires_grad_()
        solve(
            field, z0, SolverSpec(method="dopri5", rtol=1e-9, atol=1e-9), gradient=mode
        ).final.square().sum().backward()
        grads.append(z0.grad)
    assert torch.allclose(*grads, rtol=1e-5, atol=1e-6)


def test_the_hook_is_called_before_every_evaluation():
    field = build_field(GrowingEllipsesField(), (2,))
    calls = []
    field.before_evaluation = lambda: calls.append(1)
    solve(field.for_states((2,)), XOR, SolverSpec(method="rk4", steps=3))
    assert len(calls) == 12


def test_only_the_head_has_weights():
    model = build_classifier(PRESETS["xor_fan"], XorSpec())
    assert [name for name, _ in model.named_parameters()] == ["head.1.weight", "head.1.bias"]
    assert parameter_count(PRESETS["xor_fan"], (2,), 2) == sum(p.numel() for p in model.parameters()) == 6
    assert model.end_time == 4.0
    assert load_classifier(PRESETS["xor_fan"], XorSpec(), weights_to_bytes(model)).state_shape == (2,)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": {"iterations": 30, "precision": "float64", "optimizer": "sgd", "learning_rate": 0.1}},
        {
            "adaptation": {"kind": "step", "interval": 10},
            "solver": {"method": "midpoint", "steps": 50},
            "model": {"kind": "classifier", "field": {"kind": "growing_ellipses"}, "end_time": 0.5},
        },
        {"solver": {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4}},
        {"solver": {"method": "kvaerno3", "rtol": 1e-2, "atol": 1e-2}, "training": {"iterations": 2}},
        {"gradient": "checkpoint"},
        {"gradient": "adjoint"},
        {"gradient": "adjoint_seminorm"},
        {"gradient": "reversible", "solver": {"method": "asynchronous_leapfrog", "steps": 400}},
        {"solver": {"method": "dopri5", "rtol": 1e-4, "atol": 1e-4, "backend": "torchdiffeq"}},
    ],
)
def test_the_head_is_trained_in_every_mode_and_the_loss_falls(changes):
    spec = job(**changes)
    check_training_budget(spec, Budget())
    run = new_run(spec)
    losses = []
    while not run.finished:
        losses.append(run.advance()["loss"])
    assert min(losses[1:]) < losses[0]
    assert run.trained_model().metadata["parameters"] == 6


def test_a_resumed_run_is_the_same_bit_for_bit():
    through, stopped = new_run(job()), new_run(job())
    for _ in range(12):
        through.advance()
        stopped.advance()
    resumed = new_run(job())
    resumed.restore(Checkpoint.from_bytes(stopped.checkpoint().to_bytes()))
    for _ in range(5):
        assert through.advance() == resumed.advance()
    assert weights_to_bytes(through.model) == weights_to_bytes(resumed.model)


def test_the_audit_of_a_fan_trained_with_coarse_steps_sees_predictions_flip():
    run = new_run(
        job(solver={"method": "euler", "step_size": 10**-2.5}, training={"iterations": 60, "learning_rate": 0.3})
    )
    while not run.finished:
        run.advance()
    trained = run.trained_model()
    assert trained.metadata["test_accuracy"] == 1.0
    model = load_classifier(PRESETS["xor_fan"], XorSpec(), trained.weights)
    report = audit(model, run.dataset.test_inputs, run.dataset.test_labels, trained.solver)
    # The fan's classes cannot be separated in the flow: no head is right on all four points there.
    assert report.reference_accuracy < 1.0


def test_a_budget_counts_the_fields_work():
    with pytest.raises(ValueError, match="multiplications in the whole training"):
        check_training_budget(job(), Budget(training_operations=1000))


def test_runs_of_it_are_not_stacked_and_the_reason_is_told():
    with pytest.raises(ValueError, match="only the head"):
        require_stackable(job())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": {"kind": "linear", "features": 2}}, "leave stem out"),
        ({"field_arithmetic": "bfloat16"}, "leave field_arithmetic out"),
        ({"field": {"kind": "growing_ellipses", "d": 0.5}}, "greater than or equal to 1"),
        ({"field": {"kind": "growing_ellipses", "activation": "relu"}}, "Extra inputs"),
    ],
)
def test_settings_that_mean_nothing_to_it_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassifierSpec.model_validate({"field": {"kind": "growing_ellipses"}} | changes)


def test_data_that_is_not_of_the_plane_is_refused():
    with pytest.raises(ValueError, match="samples of two numbers"):
        job(dataset={"kind": "digits"})
    for dataset in ({"kind": "concentric_spheres"}, {"kind": "three_minima"}):
        job(dataset=dataset)
