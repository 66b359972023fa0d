"""An input's answer is the same, bit for bit, alone and anywhere in any batch."""

import math

import pytest
import torch
from torch import Tensor

from ode_core.models.classifier import Classifier, ClassifierOutput
from ode_core.models.modified_classifier import with_modified_field
from ode_core.models.steady_classifier import SteadyClassifier
from ode_core.solvers.status import SolveStatus
from ode_core.specs import (
    PRESETS,
    ClassifierSpec,
    Conv1dField,
    Conv2dField,
    ConvStem,
    LinearStem,
    MlpField,
    SolverSpec,
)
from ode_core.specs.modified_field import ModifiedFieldSpec

RK4 = SolverSpec(method="rk4", steps=4)
DOPRI5 = SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4)
BOSH3 = SolverSpec(method="bosh3", rtol=1e-3, atol=1e-3)
SOLVERS = [
    RK4,
    DOPRI5,
    BOSH3,
    SolverSpec(method="asynchronous_leapfrog", steps=3),
]
# Widths and images that fill no block, activations that only vectors compute alike, and the field whose states grow.
DENSE = {
    "sphere2": (PRESETS["sphere2"], (2,)),
    "relu, three widths, time": (
        ClassifierSpec(field=MlpField(hidden=(50, 33, 7), activation="relu", time_dependent=True)),
        (3,),
    ),
    "tanh": (ClassifierSpec(field=MlpField(hidden=(64, 64))), (2,)),
    "silu, linear stem": (
        ClassifierSpec(field=MlpField(hidden=(20,), activation="silu"), stem=LinearStem(features=11)),
        (1, 5, 5),
    ),
    "bfloat16": (ClassifierSpec(field=MlpField(activation="relu"), field_arithmetic="bfloat16"), (2,)),
    "growing ellipses": (PRESETS["xor_fan"].model_copy(update={"end_time": 0.5}), (2,)),
}
IMAGES = {
    "digits": (ClassifierSpec(field=Conv2dField(channels=4)), (1, 8, 8)),
    "odd image, softplus, time": (
        ClassifierSpec(field=Conv2dField(channels=5, activation="softplus", time_dependent=True)),
        (1, 7, 9),
    ),
    "conv stem": (ClassifierSpec(field=Conv2dField(channels=8, kernel=5), stem=ConvStem(channels=3)), (1, 12, 12)),
    "signal, silu": (ClassifierSpec(field=Conv1dField(channels=5, activation="silu")), (3, 11)),
}


def parts_of(output: ClassifierOutput, row: int) -> list[Tensor]:
    solution = output.solution
    parts = [output.logits, solution.final, solution.evaluations, solution.accepted, solution.rejected, solution.status]
    parts += [solution.last_step] if solution.trajectory is None else [solution.trajectory.transpose(0, 1)]
    return [part[row] for part in parts]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all numbers are the same; NaN is what a failed solve has."""
    return all(torch.equal(a.double().nan_to_num(), b.double().nan_to_num()) for a, b in zip(one, other, strict=True))


def assert_alike(model: SteadyClassifier, inputs: Tensor, solver: SolverSpec, times: Tensor | None) -> None:
    """Compare three inputs alone with themselves in batches of many sizes, each at a place drawn by chance."""

    def run(rows: Tensor) -> ClassifierOutput:
        return model.run(inputs[rows], solver, times=times, outputs="interpolate")

    watched = (0, 1, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        alone = {row: parts_of(run(torch.tensor([row])), 0) for row in watched}
        for size in (2, 3, 8, 15, 17, 33, 64):
            drawn = torch.randperm(len(inputs), generator=generator)[:size]
            drawn[int(torch.randint(size, (), generator=generator))] = watched[size % 3]
            together = run(drawn)
            for place, row in enumerate(drawn.tolist()):
                if row in watched:
                    assert same(parts_of(together, place), alone[row]), f"input {row} at {place} of {size}"


def steady(spec: ClassifierSpec, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> SteadyClassifier:
    return SteadyClassifier(Classifier(spec, shape, 10, 1.0, seed=3).to(dtype).requires_grad_(False))


def inputs_of(shape: tuple[int, ...], count: int = 64) -> Tensor:
    return 0.7 * torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("with_times", [False, True], ids=["end", "times"])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.method)
@pytest.mark.parametrize("name", DENSE)
def test_dense_fields_answer_alone_as_in_any_batch(name: str, solver: SolverSpec, with_times: bool) -> None:
    spec, shape = DENSE[name]
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64) * spec.end_time if with_times else None
    assert_alike(steady(spec, shape), inputs_of(shape), solver, times)


@pytest.mark.parametrize(
    "solver",
    [
        SolverSpec(method="implicit_midpoint", steps=1),
        SolverSpec(method="kvaerno3", rtol=1e-3, atol=1e-3),
        SolverSpec(method="dopri5", rtol=1e-3, atol=1e-3, backend="torchdiffeq"),
        SolverSpec(method="implicit_adams", steps=3),
    ],
    ids=lambda s: f"{s.method} {s.runs_on}",
)
def test_implicit_methods_and_torchdiffeq_answer_alone_as_in_any_batch(solver: SolverSpec) -> None:
    spec, shape = DENSE["sphere2"]
    assert_alike(steady(spec, shape), inputs_of(shape), solver, None)


@pytest.mark.parametrize("solver", [RK4, DOPRI5, BOSH3], ids=lambda s: s.method)
@pytest.mark.parametrize("name", IMAGES)
def test_convolutions_answer_alone_as_in_any_batch(name: str, solver: SolverSpec) -> None:
    spec, shape = IMAGES[name]
    assert_alike(steady(spec, shape), inputs_of(shape), solver, None)


@pytest.mark.parametrize("name", ["relu, three widths, time", "digits"])
def test_so_do_models_in_float64(name: str) -> None:
    spec, shape = (DENSE | IMAGES)[name]
    assert_alike(steady(spec, shape, torch.float64), inputs_of(shape), BOSH3, None)


@pytest.mark.parametrize("kind", ["series", "iterates"])
def test_so_do_repaired_models(kind: str) -> None:
    spec, shape = DENSE["sphere2"]
    modified = ModifiedFieldSpec(kind=kind, solver=SolverSpec(method="euler", steps=4))
    model = with_modified_field(Classifier(spec, shape, 10, 1.0, seed=3).requires_grad_(False), modified)
    assert_alike(SteadyClassifier(model), inputs_of(shape), BOSH3, None)


@pytest.mark.parametrize("name", ["sphere2", "relu, three widths, time", "growing ellipses"])
def test_times_do_not_change_the_prediction(name: str) -> None:
    spec, shape = DENSE[name]
    model, inputs = steady(spec, shape), inputs_of(shape, 7)
    with torch.inference_mode():
        for solver in (DOPRI5, BOSH3):
            plain = model.run(inputs, solver)
            asked = model.run(inputs, solver, times=torch.tensor([0.2, 0.4]), outputs="interpolate")
            assert torch.equal(plain.logits, asked.logits)
        plain, asked = model.run(inputs, RK4), model.run(inputs, RK4, times=torch.tensor([0.2, 0.4]))
        assert torch.allclose(plain.logits, asked.logits, rtol=0, atol=2e-6 * float(plain.logits.abs().max()))


@pytest.mark.parametrize("name", [*DENSE, *IMAGES])
def test_the_numbers_are_those_of_the_model_in_float64(name: str) -> None:
    spec, shape = (DENSE | IMAGES)[name]
    model, inputs = Classifier(spec, shape, 10, 1.0, seed=3).requires_grad_(False), inputs_of(shape, 5)
    with torch.inference_mode():
        ours = SteadyClassifier(model).run(inputs, RK4)
        exact = model.double().run(inputs.double(), RK4)
    scale = float(exact.logits.abs().max())
    tolerance = 3e-2 if spec.field_arithmetic == "bfloat16" else 2e-5
    assert torch.allclose(ours.logits.double(), exact.logits, rtol=0, atol=tolerance * scale)
    assert torch.equal(ours.solution.evaluations, exact.solution.evaluations)
    assert ours.logits.shape == (5, 10)


def test_a_sample_that_diverges_leaves_the_others_alone() -> None:
    spec, shape = DENSE["sphere2"]
    model, inputs = steady(spec, shape), inputs_of(shape, 3)
    inputs[1] = math.inf
    with torch.inference_mode():
        for solver in SOLVERS[:3]:
            together = model.run(inputs, solver)
            assert together.solution.status.tolist() == [0, SolveStatus.NON_FINITE, 0]
            for row in (0, 2):
                assert torch.equal(together.logits[row], model.run(inputs[row : row + 1], solver).logits[0])


def test_the_model_it_was_made_of_stays_as_it_is() -> None:
    spec, shape = IMAGES["digits"]
    model = Classifier(spec, shape, 10, 1.0, seed=3)
    before = model(inputs_of(shape, 2), RK4)
    field, head = model.field, model.head
    SteadyClassifier(model)
    assert (model.field, model.head) == (field, head)
    assert torch.equal(model(inputs_of(shape, 2), RK4), before)


def test_an_image_is_not_computed_many_times_over_for_its_company() -> None:
    model = steady(ClassifierSpec(field=Conv2dField(channels=8)), (3, 32, 32))
    assert [model.rows_computed(rows) for rows in (1, 2, 17)] == [1, 2, 17]
    assert steady(*DENSE["sphere2"]).rows_computed(1) == 16
