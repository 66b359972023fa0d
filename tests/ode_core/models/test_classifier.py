import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ode_core.models.classifier import Classifier, build_classifier, build_model
from ode_core.solvers.status import SolveStatus
from ode_core.specs import (
    PRESETS,
    Cifar10Spec,
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    Conv2dField,
    ConvStem,
    DigitsSpec,
    LinearStem,
    MlpField,
    SolverSpec,
    TrainingJobSpec,
    TrainingSpec,
    parameter_count,
)

DIGITS = ClassifierSpec(field=Conv2dField(channels=4))
EULER = SolverSpec(method="euler", steps=3)
DOPRI5 = SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4)


def job(seed: int = 0, precision: str = "float32") -> TrainingJobSpec:
    training = TrainingSpec(seed=seed, precision=precision)
    return TrainingJobSpec(name="m", dataset=DigitsSpec(), model=DIGITS, solver=EULER, training=training)


def weights(model: Classifier) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


widths = st.integers(1, 9)
fields = st.one_of(
    st.builds(Conv1dField, channels=widths, kernel=st.sampled_from([1, 3, 5, 7]), time_dependent=st.booleans()),
    st.builds(Conv2dField, channels=widths, kernel=st.sampled_from([1, 3, 5, 7]), time_dependent=st.booleans()),
    st.builds(MlpField, hidden=st.lists(widths, min_size=1, max_size=3).map(tuple), time_dependent=st.booleans()),
)
stems = st.one_of(st.none(), st.builds(ConvStem, channels=widths), st.builds(LinearStem, features=st.integers(1, 20)))
shapes = st.one_of(st.tuples(st.integers(2, 12)), st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)))


@settings(max_examples=150)
@given(field=fields, stem=stems, shape=shapes, classes=st.integers(2, 11))
def test_the_stated_number_of_parameters_is_that_of_the_model(field, stem, shape, classes):
    fits = stem is None or (stem.kind == "linear") == (field.kind == "mlp")
    assume(fits and (field.kind != "conv2d" or len(shape) == 3))
    spec = ClassifierSpec(field=field, stem=stem)
    model = Classifier(spec, shape, classes, 1.0, seed=0)
    assert weights(model).numel() == parameter_count(spec, shape, classes)
    logits = model(torch.zeros(2, *shape), SolverSpec(method="midpoint", steps=1))
    assert logits.shape == (2, classes)
    assert model.initial_state(torch.zeros(2, *shape)).shape == (2, *model.state_shape)


@pytest.mark.parametrize(
    ("preset", "dataset", "parameters"),
    [("sphere2", ConcentricSpheresSpec(), 3207), ("cifar10", Cifar10Spec(), 179_213)],
)
def test_presets_have_the_papers_number_of_parameters(preset, dataset, parameters):
    model = build_classifier(PRESETS[preset], dataset)
    assert weights(model).numel() == parameters
    assert parameter_count(PRESETS[preset], dataset.input_shape, dataset.classes) == parameters


def test_the_logits_are_the_heads_of_the_state_that_euler_steps_lead_to():
    model = build_classifier(DIGITS, DigitsSpec(), seed=1)
    inputs = torch.randint(0, 17, (5, 1, 8, 8), dtype=torch.uint8)
    z = inputs.float() / 16
    for _ in range(3):
        z = z + model.field(torch.tensor(0.0), z) / 3
    assert torch.allclose(model(inputs, EULER), model.head(z), rtol=1e-5, atol=1e-6)


def test_the_end_time_is_the_length_of_the_interval():
    spec = ClassifierSpec(field=MlpField(hidden=(4,)), end_time=2.5)
    model = Classifier(spec, (3,), 2, 1.0, seed=0)
    x = torch.randn(4, 3)
    z = x + 2.5 * model.field(torch.tensor(0.0), x)
    one_step = SolverSpec(method="euler", steps=1)
    assert torch.allclose(model(x, one_step), model.head(z), rtol=1e-6, atol=1e-6)
    assert model.predict(x, one_step).solution.last_step.tolist() == [2.5] * 4


def test_inputs_may_have_the_data_sets_or_the_models_shape_and_any_number_type():
    spec = ClassifierSpec(field=MlpField(hidden=(4,)))
    model = build_classifier(spec, DigitsSpec(), seed=0)
    images = torch.randint(0, 17, (3, 1, 8, 8))
    flat = images.flatten(1)
    expected = model(flat.float(), EULER)
    for inputs in (images, images.to(torch.uint8), flat.double(), flat.reshape(3, 8, 8)):
        assert torch.equal(model(inputs, EULER), expected)
    with pytest.raises(ValueError, match=r"inputs have shape \[3, 63\]; the model takes \[batch, 64\]"):
        model(flat[:, :63], EULER)


def test_a_sphere_is_a_signal_of_one_channel():
    model = build_classifier(PRESETS["sphere2"], ConcentricSpheresSpec())
    assert model.input_shape == model.state_shape == (1, 2)
    assert model.as_input(torch.zeros(5, 2)).shape == (5, 1, 2)


def test_a_seed_decides_the_weights_and_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = weights(build_model(job(seed=3)))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(8)
    assert torch.equal(weights(build_model(job(seed=3))), first)
    assert not torch.equal(weights(build_model(job(seed=4))), first)


def test_without_a_seed_the_weights_come_from_the_global_random_state():
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(weights(Classifier(DIGITS, (1, 8, 8), 10, 1.0)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_double_precision_starts_from_the_same_weights():
    single, double = build_model(job()), build_model(job(precision="float64"))
    assert double.dtype == torch.float64
    assert torch.equal(weights(single).double(), weights(double))
    assert double(torch.ones(1, 1, 8, 8), EULER).dtype == torch.float64


@pytest.mark.parametrize("solver", [EULER, DOPRI5])
def test_prediction_keeps_no_graph_and_training_does(solver):
    model = build_classifier(DIGITS, DigitsSpec())
    inputs = torch.rand(4, 1, 8, 8)
    assert not model.predict(inputs, solver).logits.requires_grad
    model(inputs, solver).sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize("solver", [EULER, DOPRI5])
def test_a_sample_whose_solve_fails_has_no_logits_and_spoils_no_other(solver):
    model = build_classifier(PRESETS["sphere2"], ConcentricSpheresSpec(), seed=0)
    points = torch.tensor([[0.1, 0.2], [torch.nan, 0.0], [0.3, 0.1]])
    output = model.predict(points, solver)
    assert output.solution.status.tolist() == [0, SolveStatus.NON_FINITE, 0]
    assert torch.isnan(output.logits).all(dim=1).tolist() == [False, True, False]
    good = model.predict(points[[0, 2]], solver).logits
    # The matrix products of three rows and of two may round differently.
    assert torch.allclose(output.logits[[0, 2]], good, rtol=1e-5, atol=1e-6)


def test_the_budget_of_a_prediction_is_kept():
    model = build_classifier(DIGITS, DigitsSpec())
    output = model.predict(torch.rand(2, 1, 8, 8), EULER, max_evaluations=2)
    assert output.solution.status.tolist() == [SolveStatus.BUDGET_EXCEEDED] * 2
    assert bool(torch.isnan(output.logits).all())


def test_the_trajectory_starts_at_the_input_and_ends_where_the_logits_are_read():
    model = build_classifier(PRESETS["sphere2"], ConcentricSpheresSpec(), seed=0)
    points = torch.rand(3, 2)
    for solver in (EULER, DOPRI5):
        output = model.run(points, solver, times=torch.linspace(0, 1, 4))
        trajectory = output.solution.trajectory
        assert torch.equal(trajectory[0], points.reshape(3, 1, 2))
        # The same product of the same numbers, but a matrix at another address may be rounded otherwise.
        torch.testing.assert_close(model.head(trajectory[-1]), output.logits)


def test_stems_change_the_state_and_scale_comes_first():
    for spec, shape, state in (
        (ClassifierSpec(field=Conv2dField(channels=4), stem=ConvStem(channels=5)), (1, 8, 8), (5, 8, 8)),
        (ClassifierSpec(field=Conv1dField(channels=4), stem=ConvStem(channels=5)), (6,), (5, 6)),
        (ClassifierSpec(field=MlpField(), stem=LinearStem(features=7)), (1, 8, 8), (7,)),
    ):
        model = Classifier(spec, shape, 3, 0.25, seed=0)
        assert model.state_shape == state
        x = torch.rand(2, *shape)
        assert torch.allclose(model.initial_state(4 * x), model.stem(model.as_input(x)), rtol=1e-5, atol=1e-6)


def test_models_with_another_seed_differ_in_every_layer():
    first, second = (build_classifier(DIGITS, DigitsSpec(), seed=seed) for seed in (0, 1))
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b) == name.endswith("bias")
    for a, b in itertools.combinations([p for p in first.parameters() if p.ndim > 1], 2):
        assert not torch.equal(a.flatten()[:4], b.flatten()[:4])
