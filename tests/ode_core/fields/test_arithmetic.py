import warnings

import pytest
import torch
from pydantic import ValidationError

from ode_core.fields.arithmetic import float32_products
from ode_core.fields.vector_fields import build_field, initialise
from ode_core.models.classifier import build_classifier
from ode_core.models.weights import load_classifier, weights_to_bytes
from ode_core.solvers.solve import solve
from ode_core.specs import ClassifierSpec, Conv1dField, Conv2dField, MlpField, SolverSpec, TrainingJobSpec
from tests.ode_core.training.small_jobs import CPU, SPHERES, advance, job, new_run

FIELDS = [
    (Conv1dField(channels=6, time_dependent=True), (2, 2)),  # as a dense product
    (Conv1dField(channels=6, time_dependent=True), (2, 9)),
    (Conv2dField(channels=4, time_dependent=True), (2, 4, 4)),
    (MlpField(hidden=(7, 5), time_dependent=True), (6,)),
]
T = torch.tensor(0.3)
# bfloat16 has 8 significant bits. A layer rounds its weights, its input and its result, relatively by 2^-9 each;
# three layers, and values of either sign that cancel in part.
ROUNDING = 2.0**-9
ALLOWED = 30 * ROUNDING


def pair(spec, shape):
    """The same field in full and in bfloat16."""
    fields = [build_field(spec, shape, arithmetic) for arithmetic in ("full", "bfloat16")]
    for field in fields:
        initialise(field, torch.Generator().manual_seed(0))
    return fields


def states(shape, batch=16):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1))


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_a_field_in_bfloat16_is_off_by_its_rounding_and_keeps_the_type_of_the_state(spec, shape):
    full, reduced = pair(spec, shape)
    z = states(shape)
    exact = full(T, z)
    for field in (reduced, reduced.for_states(shape)):
        result = field(T, z)
        assert result.dtype == torch.float32
        assert ROUNDING / 10 < relative(result, exact) < ALLOWED
        # What comes out has been rounded to 8 bits.
        assert torch.equal(result, result.bfloat16().float())


@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_a_prepared_field_gives_the_same_with_and_without_gradients(spec, shape):
    reduced = pair(spec, shape)[1]
    z = states(shape)
    with torch.no_grad():
        without = reduced.for_states(shape)(T, z)
    assert torch.equal(reduced.for_states(shape)(T, z), without)


@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_weights_and_gradients_stay_in_float32(spec, shape):
    full, reduced = pair(spec, shape)
    gradients = []
    for field in (full, reduced):
        z = states(shape).requires_grad_()
        final = solve(field.for_states(shape), z, SolverSpec(method="rk4", steps=4)).final
        assert final.dtype == torch.float32
        gradients.append(torch.autograd.grad(final.square().sum(), [z, *field.parameters()]))
    assert all(parameter.dtype == torch.float32 for parameter in reduced.parameters())
    for a, b in zip(*gradients, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert 0 < relative(b, a) < ALLOWED


@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_gradients_of_many_evaluations_are_added_up_in_float32(spec, shape):
    # In bfloat16 a sum stops growing at 256 equal terms.
    reduced = pair(spec, shape)[1]
    z, parameters = states(shape, 1), list(reduced.parameters())
    one = torch.autograd.grad(reduced.for_states(shape)(T, z).sum(), parameters)
    prepared = reduced.for_states(shape)
    many = torch.autograd.grad(sum(prepared(T, z).sum() for _ in range(600)), parameters)
    for a, b in zip(one, many, strict=True):
        assert torch.allclose(600 * a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", [{"steps": 8}, {"rtol": 1e-2, "atol": 1e-2}])
@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_a_solve_in_bfloat16_has_a_state_of_more_bits_close_to_the_full_one(spec, shape, rule):
    full, reduced = pair(spec, shape)
    solver = SolverSpec(method="dopri5", **rule)
    with torch.no_grad():
        ends = [solve(field.for_states(shape), 0.1 * states(shape), solver).final for field in (full, reduced)]
    # The adaptive solves choose different steps, with an error each of about their tolerance.
    assert 0 < relative(ends[1], ends[0]) < ALLOWED
    assert not torch.equal(ends[1], ends[1].bfloat16().float())


@pytest.mark.parametrize("arithmetic", ["tf32", "bfloat16"])
@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_in_float64_every_field_computes_in_full(spec, shape, arithmetic):
    z = states(shape).double()
    expected = pair(spec, shape)[0].double()(T, z)
    field = build_field(spec, shape, arithmetic)
    initialise(field, torch.Generator().manual_seed(0))
    field = field.double()
    assert torch.equal(field(T, z), expected)
    assert torch.allclose(field.for_states(shape)(T, z), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("spec", "shape"), FIELDS)
def test_tf32_changes_nothing_on_the_cpu(spec, shape):
    full = pair(spec, shape)[0]
    field = build_field(spec, shape, "tf32")
    field.load_state_dict(full.state_dict())
    with float32_products("tf32", torch.device("cpu")):
        assert torch.equal(field(T, states(shape)), full(T, states(shape)))


def product_settings():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


@pytest.mark.parametrize(
    ("arithmetic", "device", "within"),
    [("tf32", "cuda", "tf32"), ("full", "cuda", "ieee"), ("bfloat16", "cuda", "ieee"), ("tf32", "cpu", None)],
)
def test_products_are_set_within_a_solve_on_cuda_and_restored_after_it(arithmetic, device, within):
    before = product_settings()
    with float32_products(arithmetic, torch.device(device)):
        assert product_settings() == (before if within is None else (within, within))
    assert product_settings() == before


@pytest.mark.parametrize("arithmetic", ["full", "tf32", "bfloat16"])
def test_a_model_trains_and_is_stored_and_loaded_with_its_arithmetic(arithmetic):
    model = ClassifierSpec(field=Conv1dField(channels=6), field_arithmetic=arithmetic)
    run = new_run(job(model=model, training={"batch_size": 64}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = [metrics["loss"] for metrics in advance(run, 40)]
    assert losses[-1] < 0.95 * losses[0]
    assert all(parameter.dtype == torch.float32 for parameter in run.model.parameters())
    assert all(parameter.grad.dtype == torch.float32 for parameter in run.model.parameters())
    loaded = load_classifier(run.spec.architecture, SPHERES, weights_to_bytes(run.model), device=CPU)
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    assert torch.equal(loaded.predict(inputs, run.solver).logits, run.model.predict(inputs, run.solver).logits)
    assert loaded.field.arithmetic == arithmetic


def test_bfloat16_reaches_the_field_of_a_classifier_and_not_its_head():
    inputs = torch.randn(5, 2, generator=torch.Generator().manual_seed(2))
    outputs = []
    for arithmetic in ("full", "bfloat16"):
        spec = ClassifierSpec(field=Conv1dField(channels=6), field_arithmetic=arithmetic)
        outputs.append(build_classifier(spec, SPHERES, seed=0).predict(inputs, SolverSpec(method="euler", steps=4)))
    full, reduced = outputs
    assert 0 < relative(reduced.solution.final, full.solution.final) < ALLOWED
    assert reduced.logits.dtype == torch.float32
    assert not torch.equal(reduced.logits, reduced.logits.bfloat16().float())


# ---------------------------------------------------------------- specs


def test_stored_models_from_before_the_setting_compute_in_full():
    stored = '{"kind": "classifier", "field": {"kind": "mlp"}}'
    assert ClassifierSpec.model_validate_json(stored).field_arithmetic == "full"


def test_the_setting_survives_json():
    spec = job(model=ClassifierSpec(field=MlpField(), field_arithmetic="bfloat16"))
    assert TrainingJobSpec.model_validate_json(spec.model_dump_json()) == spec
    with pytest.raises(ValidationError, match="'full', 'tf32' or 'bfloat16'"):
        ClassifierSpec(field=MlpField(), field_arithmetic="float16")


@pytest.mark.parametrize("arithmetic", ["tf32", "bfloat16"])
def test_training_in_float64_takes_full_arithmetic_only(arithmetic):
    model = ClassifierSpec(field=MlpField(), field_arithmetic=arithmetic)
    with pytest.raises(ValidationError, match="set precision to float32, or field_arithmetic to full"):
        job(model=model, training={"precision": "float64"})
