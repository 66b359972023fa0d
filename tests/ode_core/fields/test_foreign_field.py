from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ode_core.fields.foreign_field import ForeignField, NotAuditable, TimeMode, call_signature, field_of
from ode_core.solvers.solve import solve
from ode_core.specs import SolverSpec

TIMES = torch.tensor([0.1, 0.7, 0.1, 0.4], dtype=torch.float64)
STATES = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25], [-2.0, 1.0]], dtype=torch.float64)


def by_value(t: Tensor, z: Tensor) -> Tensor:
    """Reads the time as a number."""
    return z * (2.0 if float(t) < 0.5 else -1.0)


def by_shape(t: Tensor, z: Tensor) -> Tensor:
    """Takes a time of one number alone."""
    return t.view(1, 1) * z


@pytest.mark.parametrize("times", ["batched", "mapped", "grouped"])
def test_each_sample_has_the_field_at_its_own_time(times: TimeMode) -> None:
    field = ForeignField(lambda t, z: t * z, "t, z", times=times)

    assert torch.equal(field(TIMES.unsqueeze(1), STATES), TIMES.unsqueeze(1) * STATES)


def test_samples_of_one_time_are_evaluated_together() -> None:
    calls = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        calls.append((float(t), len(z)))
        return by_value(t, z)

    found = ForeignField(field, "t, z", times="grouped")(TIMES.unsqueeze(1), STATES)

    assert sorted(calls) == [(0.1, 2), (0.4, 1), (0.7, 1)]
    assert torch.equal(found, STATES * torch.tensor([[2.0], [-1.0], [2.0], [2.0]], dtype=torch.float64))


@pytest.mark.parametrize("times", ["mapped", "grouped"])
def test_the_derivative_by_the_time_is_each_samples_own(times: TimeMode) -> None:
    field = ForeignField(lambda t, z: (t**2).reshape(1, 1) * z, "t, z", times=times)
    t = TIMES.unsqueeze(1)
    weights = torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64)

    _, tangent = torch.func.jvp(lambda time: field(time, STATES), (t,), (weights,))

    assert torch.allclose(tangent, 2 * t * weights * STATES, rtol=1e-14)


@pytest.mark.parametrize("times", ["mapped", "grouped"])
def test_a_field_of_one_time_is_solved_with_steps_of_each_samples_own(times: TimeMode) -> None:
    field = ForeignField(by_shape, "t, z", times=times)

    solution = solve(field, STATES, SolverSpec(method="dopri5", rtol=1e-9, atol=1e-9), compilation="never")

    # z' = t z multiplies by exp(1/2).
    assert torch.allclose(solution.final, STATES * torch.exp(torch.tensor(0.5, dtype=torch.float64)), rtol=1e-7)


def test_what_a_mapped_field_keeps_of_a_call_is_put_back() -> None:
    class Keeping(nn.Module):
        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            self.t = t
            return by_shape(t, z)

    function = Keeping()
    ForeignField(function, "t, z", times="mapped")(TIMES.unsqueeze(1), STATES)

    assert not hasattr(function, "t")


def test_no_samples_have_no_slopes() -> None:
    for times in ("mapped", "grouped"):
        assert ForeignField(by_shape, "t, z", times=times)(TIMES[:0].unsqueeze(1), STATES[:0]).shape == (0, 2)  # type: ignore[arg-type]


def test_the_interval_may_begin_anywhere_and_run_backwards() -> None:
    seen = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        seen.append(float(t))
        return z

    backwards = ForeignField(field, "t, z", start=3.0, direction=-1)

    assert torch.equal(backwards(torch.tensor(0.5), STATES), -STATES)
    assert seen == [2.5]


class Signatures:
    class TimeFirst(nn.Module):
        def forward(self, t: Tensor, x: Tensor, args: Any = None) -> Tensor:
            return x

    class TimeLast(nn.Module):
        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            return y

    class TimeByDefault(nn.Module):
        def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
            return x

    class NoNames(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return b

    class Anything(nn.Module):
        def forward(self, *args: Any) -> Tensor:
            return args[1]  # type: ignore[no-any-return]


def test_the_names_of_the_arguments_tell_which_is_the_time() -> None:
    assert call_signature(Signatures.TimeFirst()) == "t, z"
    assert call_signature(Signatures.TimeLast()) == "z, t"
    assert call_signature(Signatures.TimeByDefault()) == "z, t"
    assert call_signature(nn.Sequential(nn.Linear(2, 2))) == "z"
    assert call_signature(by_shape) == "t, z"


@pytest.mark.parametrize("field", [Signatures.NoNames(), Signatures.Anything(), lambda t: t, lambda a, b, c: a])
def test_where_they_do_not_tell_the_user_is_asked(field: Any) -> None:
    with pytest.raises(NotAuditable, match="give signature="):
        call_signature(field)


def test_a_block_that_solves_an_ode_is_not_taken_for_a_field() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odefunc = Signatures.TimeFirst()

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(NotAuditable, match="its part 'odefunc' the field"):
        call_signature(Block())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("_control", None, "data control"),
        ("trace_estimator", None, "normalising flow"),
        ("integral_loss", abs, "integral loss"),
    ],
)
def test_torchdyn_fields_of_more_than_time_and_state_are_refused(name: str, value: Any, words: str) -> None:
    field = Signatures.TimeFirst()
    object.__setattr__(field, name, value)

    with pytest.raises(NotAuditable, match=words):
        field_of(nn.Sequential(field))
