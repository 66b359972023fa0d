"""Which models are taken, and what is said of those that are not."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ode_core.audit.reference import converged_reference
from ode_core.fields.field_checks import no_derivative
from ode_core.fields.foreign_field import ForeignField, NotAuditable
from ode_core.models.foreign_classifier import foreign_classifier
from ode_core.models.predictions import predict
from ode_core.specs import SolverSpec

INPUTS = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))


class Function(nn.Module):
    """A field with two weights around a function of them."""

    def __init__(self, function: Callable[[nn.Module, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.5]))
        self.scale = torch.tensor([2.0, 3.0])  # kept, but not as a buffer
        self.count = 0
        self.function = function

    def forward(self, t: Tensor, z: Tensor) -> Any:
        return self.function(self, t, z)


def counted(field: Any, t: Tensor, z: Tensor) -> Tensor:
    field.count += 1
    return field.count * z


FIELDS: dict[str, tuple[Callable[[Any, Tensor, Tensor], Any], str]] = {
    "chance": (lambda f, t, z: z + torch.randn_like(z), "chance or memory"),
    "dropout that does not ask for the mode": (lambda f, t, z: nn.functional.dropout(z), "chance or memory"),
    "memory": (counted, "chance or memory"),
    "in place": (lambda f, t, z: z.mul_(1.0), "in place"),
    "in place, changing": (lambda f, t, z: z.add_(1.0), "in place"),
    "batch statistics": (lambda f, t, z: z - z.mean(dim=0), "samples must not depend on each other"),
    "another shape": (lambda f, t, z: z[:, :1], r"returns shape \[5, 1\] for states of shape \[5, 2\]"),
    "a tuple": (lambda f, t, z: (z, z), "returns a tuple"),
    "float inside": (lambda f, t, z: (z.float() * f.weight.float()).to(z.dtype), "computes .* in torch.float32"),
    "kept in float32": (lambda f, t, z: (f.scale * t) * z, "Register kept tensors as buffers"),
    "constants of a type": (lambda f, t, z: z * torch.ones(2, dtype=torch.float32), "dtype=z.dtype"),
    "a matrix of a type": (lambda f, t, z: z @ torch.eye(2, dtype=torch.float32), "cannot compute in float64"),
    "a state of two parts": (lambda f, t, z: f.weight * z.parts[0], "cannot be evaluated: AttributeError"),
    "does not run": (lambda f, t, z: z @ z, "cannot be evaluated"),
}


@pytest.mark.parametrize(("function", "words"), FIELDS.values(), ids=FIELDS.keys())
def test_a_field_with_numbers_that_could_not_be_trusted_is_refused(
    function: Callable[[Any, Tensor, Tensor], Any], words: str
) -> None:
    with pytest.raises(NotAuditable, match=words):
        foreign_classifier(Function(function), INPUTS)


def test_a_field_that_changes_its_state_without_a_trace_in_its_values_is_refused() -> None:
    def field(t: Tensor, z: Tensor) -> Tensor:
        slope = torch.ones_like(z)
        z += 1.0
        return slope

    with pytest.raises(NotAuditable, match="in place"):
        foreign_classifier(field, INPUTS)


def test_constants_without_a_type_are_float64_in_the_reference_as_in_what_was_trained() -> None:
    def field(t: Tensor, z: Tensor) -> Tensor:
        return torch.cat([z[:, 2:] * t * torch.ones(len(z), 1), z[:, :2] @ torch.eye(2) * torch.tensor(0.1)], dim=1)

    model = foreign_classifier(
        field, INPUTS, stem=lambda x: torch.cat([x, torch.zeros(len(x), 1)], dim=1), head=lambda z: z @ torch.eye(3)
    )
    exact = copy.deepcopy(model).double()
    time, states = torch.tensor(1 / 3, dtype=torch.float64), exact.initial_state(INPUTS)

    expected = torch.cat([states[:, 2:] * (1 / 3), states[:, :2] * 0.1], dim=1)
    assert states.dtype == exact.head(states).dtype == torch.float64
    assert torch.allclose(exact.field(time, states), expected, rtol=1e-15, atol=0)
    assert model.field(time.float(), model.initial_state(INPUTS)).dtype == torch.float32


HEADS: dict[str, tuple[Callable[[Tensor], Any] | None, str]] = {
    "one number": (nn.Linear(2, 1), "one number a sample"),
    "no classes": (lambda z: z[:, 0], "logits must be"),
    "no tensor": (lambda z: [z], "the head returns list"),
}


@pytest.mark.parametrize(("head", "words"), HEADS.values(), ids=HEADS.keys())
def test_a_head_that_is_no_classifiers_is_refused(head: Callable[[Tensor], Any] | None, words: str) -> None:
    with pytest.raises(NotAuditable, match=words):
        foreign_classifier(nn.Linear(2, 2), INPUTS, head=head)


STEMS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a tuple": (lambda x: (x, x), "the stem returns a tuple"),
    "no state": (lambda x: x[:, 0], r"must be \(batch, \*state\)"),
    "integers": (lambda x: x.long(), "floating-point states"),
}


@pytest.mark.parametrize(("stem", "words"), STEMS.values(), ids=STEMS.keys())
def test_a_stem_that_makes_no_state_is_refused(stem: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(NotAuditable, match=words):
        foreign_classifier(nn.Linear(2, 2), INPUTS, stem=stem)


def test_weights_of_several_or_low_precision_are_refused() -> None:
    with pytest.raises(NotAuditable, match=r"torch.float32 and torch.float64"):
        foreign_classifier(nn.Linear(2, 2), INPUTS, head=nn.Linear(2, 2).double())
    with pytest.raises(NotAuditable, match=r"use .float\(\)"):
        foreign_classifier(nn.Linear(2, 2).bfloat16(), INPUTS)


def test_parts_on_devices_that_cannot_compute_together_or_in_float64_are_refused() -> None:
    with pytest.raises(NotAuditable, match="cpu and meta"):
        foreign_classifier(nn.Linear(2, 2), INPUTS, head=nn.Linear(2, 2, device="meta"))
    with pytest.raises(NotAuditable, match="meta cannot"):
        foreign_classifier(nn.Linear(2, 2, device="meta"), INPUTS)


@pytest.mark.parametrize("interval", [(1.0, 1.0), (0.0, float("inf"))])
def test_an_interval_without_a_length_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(NotAuditable, match="two different finite times"):
        foreign_classifier(nn.Linear(2, 2), INPUTS, interval=interval)


def test_a_kept_tensor_with_a_graph_is_named_as_why_a_model_cannot_be_copied() -> None:
    field = nn.Linear(2, 2)
    field.cache = field.weight * 2  # type: ignore[assignment]

    with pytest.raises(NotAuditable, match="detach it"):
        foreign_classifier(field, INPUTS)


def test_dropout_in_training_mode_is_switched_off_and_said() -> None:
    field = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()

    model = foreign_classifier(field, INPUTS)

    assert model.notes == [
        "It came in training mode and was audited in evaluation mode: Dropout behaved otherwise in training."
    ]
    assert field.training
    assert not model.training


MODES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "a feature of ones": (lambda t, z: torch.cat([z[:, :1], t * torch.ones_like(z[:, :1])], dim=1), "batched"),
    "expanded": (lambda t, z: torch.cat([z[:, :1], t.expand(len(z), 1)], dim=1), "batched"),
    "a view": (lambda t, z: t.view(1, 1) * z, "mapped"),
    "a batch of times": (lambda t, z: (t * torch.ones_like(z[:, 0])).unsqueeze(1) * z, "mapped"),
    "the first sample's": (lambda t, z: t.flatten()[0] * z, "mapped"),
    "a number": (lambda t, z: z * (2.0 if float(t.reshape(-1)[0]) < 0.5 else -1.0), "grouped"),
    "filled": (lambda t, z: torch.full_like(z, t.item()), "grouped"),
}


@pytest.mark.parametrize(("field", "mode"), MODES.values(), ids=MODES.keys())
def test_a_field_of_one_time_is_called_in_the_way_that_gives_each_sample_its_own(
    field: Callable[[Tensor, Tensor], Tensor], mode: str
) -> None:
    assert foreign_classifier(field, INPUTS).field.times == mode


def test_a_model_of_functions_alone_follows_its_inputs_precision() -> None:
    for dtype in (torch.float32, torch.float64):
        model = foreign_classifier(lambda t, z: t * z, INPUTS.to(dtype))

        assert model.dtype == dtype
        assert copy.deepcopy(model).double().dtype == torch.float64


def test_a_field_of_one_time_and_of_many_have_the_same_reference() -> None:
    def of_one(t: Tensor, z: Tensor) -> Tensor:
        return torch.sin(4 * t).view(1, 1) * z.flip(1)

    def of_many(t: Tensor, z: Tensor) -> Tensor:
        return torch.sin(4 * t) * z.flip(1)

    one, many = (
        converged_reference(foreign_classifier(field, INPUTS.double()), INPUTS.double()) for field in (of_one, of_many)
    )

    assert torch.allclose(one.predictions.logits, many.predictions.logits, rtol=1e-12)


def test_predictions_do_not_depend_on_the_batch() -> None:
    model = foreign_classifier(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), INPUTS)
    solver = SolverSpec(method="dopri5", rtol=1e-4, atol=1e-4)

    whole, parts = predict(model, INPUTS, solver), predict(model, INPUTS, solver, batch_size=3)

    assert torch.allclose(whole.logits, parts.logits, rtol=1e-5, atol=1e-6)
    assert torch.equal(whole.evaluations, parts.evaluations)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (lambda t, z: torch.sin(z), None),
        (lambda t, z: torch.relu(z), None),
        (lambda t, z: torch.sin(z.detach()), "not that of its values"),
        (lambda t, z: z * 2.0 if float(z.sum()) < 1e9 else z, None),
        (lambda t, z: torch.from_numpy(z.numpy() * 2.0), "cannot differentiate"),
    ],
)
def test_a_derivative_that_is_not_the_fields_is_noticed(
    field: Callable[[Tensor, Tensor], Tensor], words: str | None
) -> None:
    reason = no_derivative(ForeignField(field, "t, z"), INPUTS.double(), 1.0)

    assert (words in reason) if words is not None and reason is not None else reason is None and words is None


def test_a_compiled_part_is_taken_as_it_was_written_and_a_scripted_one_is_refused() -> None:
    linear = nn.Linear(2, 2)

    model = foreign_classifier(torch.compile(linear), INPUTS)
    assert torch.equal(model.field(torch.tensor(0.0), INPUTS), linear(INPUTS))
    with pytest.raises(NotAuditable, match="give the module it was made from"):
        foreign_classifier(torch.jit.script(linear), INPUTS)


class Hamiltonian(nn.Module):
    """The field of a learnt energy, by its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        gradient = torch.func.grad(lambda state: self.energy(state).sum())(z)
        return torch.stack([gradient[:, 1], -gradient[:, 0]], dim=1)


def test_a_field_that_takes_a_gradient_inside_is_audited_with_its_derivatives() -> None:
    model = foreign_classifier(Hamiltonian(), INPUTS)
    exact = copy.deepcopy(model).double()

    assert no_derivative(exact.field, INPUTS.double(), 1.0) is None
    assert model.operations(INPUTS) > 0


def test_the_multiplications_of_a_field_are_counted() -> None:
    dense = foreign_classifier(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), INPUTS)
    image = foreign_classifier(
        nn.Conv2d(2, 2, kernel_size=3, padding=1),
        torch.randn(3, 2, 5, 5),
        head=lambda z: z.flatten(1),
    )

    assert dense.operations(INPUTS) == 2 * 8 + 8 * 2
    assert image.operations(torch.randn(3, 2, 5, 5)) == 5 * 5 * 2 * 2 * 3 * 3


@pytest.mark.parametrize("where", ["stem", "head"])
@pytest.mark.parametrize(
    ("part", "words"),
    [
        (lambda x: nn.functional.dropout(x, 0.5), "another value the second time"),
        (lambda x: x.softmax(dim=0), "alone than in a batch"),
        (lambda x: nn.functional.batch_norm(x, None, None, training=True), "given one sample alone, cannot"),
    ],
    ids=["random numbers", "a softmax over the batch", "the batch's statistics"],
)
def test_a_stem_or_head_that_is_no_function_of_a_sample_is_refused(where: str, part: Any, words: str) -> None:
    with pytest.raises(NotAuditable, match=f"the {where}.*{words}"):
        foreign_classifier(lambda t, z: -z, INPUTS, **{where: part})


def test_a_field_that_fails_for_one_sample_alone_says_so() -> None:
    with pytest.raises(NotAuditable, match="the field, given one sample alone, cannot be evaluated: IndexError"):
        foreign_classifier(lambda t, z: -z.squeeze()[:, [1, 0]], INPUTS)


@pytest.mark.parametrize(
    ("field", "times"), [(lambda t, z: float(t) * z, "grouped"), (lambda t, z: t.flatten()[0] * z, "mapped")]
)
def test_how_a_field_takes_times_is_seen_on_a_single_sample_too(field: Any, times: str) -> None:
    # Solves of one sample are stacked over steps, each with a time of its own.
    assert foreign_classifier(field, INPUTS[:1]).field.times == times


def test_a_signature_that_is_none_is_refused_and_not_taken_for_another() -> None:
    with pytest.raises(NotAuditable, match="'t,z'"):
        foreign_classifier(lambda t, z: t * z, INPUTS, signature="t,z")  # type: ignore[arg-type]


class InBfloat16(nn.Module):
    """A linear map in what autocast makes of float32; float64 it leaves as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.linear(z).to(z.dtype)


@pytest.mark.parametrize("part", ["stem", "field", "head"])
def test_a_part_that_computes_in_less_than_its_weights_is_refused(part: str) -> None:
    parts: dict[str, Any] = {"field": nn.Linear(2, 2), part: InBfloat16()}
    with pytest.raises(NotAuditable, match=f"the {part} computes .* in torch.bfloat16 though the weights"):
        foreign_classifier(parts.pop("field"), INPUTS, **parts)


def test_a_field_that_runs_in_float64_alone_is_refused_with_what_to_change() -> None:
    field = Function(lambda own, t, z: z.double() @ torch.diag(own.weight))
    with pytest.raises(NotAuditable, match=r"cannot compute in torch.float32.*leave out"):
        foreign_classifier(field, INPUTS)


def kept_weights() -> list[tuple[str, Any, Any]]:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = nn.Linear(2, 2), nn.Linear(2, 3)

        def velocity(self, t: Tensor, z: Tensor) -> Tensor:
            return torch.tanh(self.net(z))

    model = Model()

    def field(t: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(model.net(z))

    def zero(t: Tensor, z: Tensor) -> Tensor:
        return 0 * z

    return [
        ("lambda", lambda t, z: model.net(z), None),
        ("def", field, None),
        ("bound method", model.velocity, None),
        ("partial", functools.partial(lambda net, t, z: net(z), model.net), None),
        ("head", zero, lambda z: model.head(z)),
    ]


@pytest.mark.parametrize(("field", "head"), [pytest.param(*parts, id=name) for name, *parts in kept_weights()])
def test_a_function_that_uses_a_modules_weights_is_refused_with_the_advice_to_give_the_module(
    field: Any, head: Any
) -> None:
    part = "the field" if head is None else "the head"
    with pytest.raises(NotAuditable, match=f"{part} is a function that uses the weights of .*Give the module itself"):
        foreign_classifier(field, INPUTS, head=head, signature="t, z")


def test_a_function_without_weights_and_one_that_calls_it_are_audited() -> None:
    def turn(t: Tensor, z: Tensor) -> Tensor:
        return torch.stack([-z[:, 1], z[:, 0]], dim=1)

    model = foreign_classifier(lambda t, z: 2 * turn(t, z), INPUTS)
    assert model.classes == 2
