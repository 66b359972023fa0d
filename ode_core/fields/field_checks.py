"""Is a foreign field a function of time and state that a float64 reference and its derivatives can be taken of?

Everything is tried on a few states at times spread over the interval, against the plainest call: one sample, one 0-d
time, as torchdiffeq and torchdyn call a field.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ode_core.fields.foreign_field import ForeignField, NotAuditable, TimeMode
from ode_core.solvers.linearisation import dense_jacobian
from ode_core.solvers.solution import per_sample
from ode_core.specs.methods import DENSE_JACOBIAN

SAMPLES = 5
# Products of a batch are added up in another order than those of one sample. What is wrong is wrong by far more.
_ROUND_OFF = 1e-10
# Of a difference quotient, which a kink nearby spoils: so that most samples have to agree, not all.
_STEP, _QUOTIENT_ERROR = 1e-6, 1e-4


class NarrowResults(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, operations whose result is a floating-point number of less than a type are noted."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []
        self._bits = torch.finfo(dtype).bits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at what comes out."""
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            inexact = isinstance(one, Tensor) and (one.is_floating_point() or one.is_complex())
            if inexact and torch.finfo(one.dtype).bits < self._bits:
                self.found.append(f"{func} in {one.dtype}")
        return result


def in_float64(what: str, function: Callable[[], Any]) -> Any:
    """Return what a function returns, having seen that all it computes is in float64.

    Raises:
        NotAuditable: some of it is not, or it cannot run.
    """
    narrow = NarrowResults()
    remedy = (
        "the reference is computed in float64. Register kept tensors as buffers, give constants the type of the state "
        "(dtype=z.dtype), and leave out .float(), .half() and autocast"
    )
    try:
        with torch.no_grad(), narrow:
            result = function()
    except Exception as error:  # the code is not ours, and what it makes of a state may be anything
        if "dtype" in str(error) or "Double" in str(error):
            raise NotAuditable(f"{what} cannot compute in float64 ({error}): {remedy}") from error
        raise NotAuditable(f"{what} cannot be evaluated: {type(error).__name__}: {error}") from error
    if narrow.found:
        raise NotAuditable(f"{what} computes {narrow.found[0]} though it is given float64: {remedy}")
    return result


def in_own_precision(what: str, dtype: torch.dtype, function: Callable[[], Any]) -> Any:
    """Return what a function returns, having seen that it computes in the type of the weights, or a wider one.

    Autocast leaves float64 as it is, and shows here alone.

    Raises:
        NotAuditable: some of it is narrower, or it cannot run.
    """
    narrow = NarrowResults(dtype)
    remedy = "leave out autocast, .half(), .double() and other casts"
    try:
        with torch.no_grad(), narrow:
            result = function()
    except Exception as error:  # as above
        raise NotAuditable(f"{what} cannot compute in {dtype}, as its weights are ({error}): {remedy}") from error
    if narrow.found:
        raise NotAuditable(f"{what} computes {narrow.found[0]} though the weights are of {dtype}: {remedy}")
    return result


@torch.no_grad()
def check_field(field: ForeignField, states: Tensor, end_time: float) -> TimeMode:
    """Check a field, in float64, and return how it can be given a time for each sample.

    Args:
        field: its ``times`` are not looked at.
        states: ``(n, *state)`` in float64; the first few are used.
        end_time: of the interval.

    Raises:
        NotAuditable: the field is no function of time and state alone, of the state's shape, in float64.
    """
    states = states[:SAMPLES].clone()
    if len(states) == 1:  # what a field makes of several times shows only with several samples
        states = states.repeat(2, *(1 for _ in states.shape[1:]))
    times = end_time * torch.linspace(0.1, 0.9, len(states), dtype=states.dtype, device=states.device)
    version = states._version
    slopes = in_float64("the field", lambda: [field(times[0], states), field(times[0], states)])
    for slope in slopes:
        _check_slope(slope, states)
    if states._version != version:
        raise NotAuditable("the field changes the state it is given, in place: write z = z + ... for z += ...")
    if not torch.equal(*slopes) and not _close(*slopes):
        raise NotAuditable(
            "two evaluations of the field at the same time and state differ: a field with chance or memory in it has "
            "no flow. Take out random numbers and what changes from call to call"
        )
    _check_alone("the field", lambda state: field(times[0], state), states, slopes[0])
    return _time_mode(field, times, states)


@torch.no_grad()
def check_part(what: str, function: Callable[[Tensor], Any], arguments: Tensor, found: Tensor) -> None:
    """Check in float64 that a stem or head gives ``found`` again, and each of the samples alone what it has there.

    Raises:
        NotAuditable: it does not.
    """
    again = in_float64(what, lambda: function(arguments))
    if again.shape != found.shape or not _close(again, found):
        raise NotAuditable(
            f"{what} gives another value the second time: predictions would change by themselves. Take out random "
            f"numbers (functional.dropout without training=self.training) and what changes from call to call"
        )
    _check_alone(what, function, arguments, found)


def _check_alone(what: str, function: Callable[[Tensor], Any], arguments: Tensor, found: Tensor) -> None:
    singles = torch.split(arguments, 1)  # of inputs as they came, perhaps in float32
    alone = in_float64(f"{what}, given one sample alone,", lambda: torch.cat([function(one) for one in singles]))
    if alone.shape != found.shape or not _close(alone, found):
        raise NotAuditable(
            f"{what} gives a sample another value alone than in a batch: samples must not depend on each other "
            f"(statistics or a softmax over the batch, or a reshape that mixes samples)"
        )


def _check_slope(slope: Any, states: Tensor) -> None:
    if not isinstance(slope, Tensor):
        raise NotAuditable(
            f"the field returns a {type(slope).__name__}; it must return one tensor, dz/dt, of the state's shape. "
            f"Put a state of several parts into one tensor"
        )
    if slope.shape != states.shape:
        raise NotAuditable(
            f"the field returns shape {list(slope.shape)} for states of shape {list(states.shape)}; dz/dt must have "
            f"the state's shape. What maps inputs to the first state is the stem"
        )


def _time_mode(field: ForeignField, times: Tensor, states: Tensor) -> TimeMode:
    """Return the fastest way that gives each sample what it has alone at its 0-d time."""
    right = torch.cat([field(time, state.unsqueeze(0)) for time, state in zip(times, states, strict=True)])
    own = times.reshape(-1, *(1 for _ in states.shape[1:]))
    modes: tuple[TimeMode, TimeMode] = ("batched", "mapped")
    for mode in modes:
        tried = ForeignField(field.function, field.signature, start=field.start, direction=field.direction, times=mode)
        try:
            found = tried(own, states)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue  # whatever a field written for a 0-d time does with others
        if found.shape == right.shape and found.dtype == right.dtype and _close(found, right):
            return mode
    return "grouped"


def _close(found: Tensor, expected: Tensor) -> bool:
    scale = expected.abs().nan_to_num(0.0, 0.0).amax() if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=float(_ROUND_OFF * scale), equal_nan=True)


@torch.no_grad()
def no_derivative(field: ForeignField, states: Tensor, end_time: float) -> str | None:
    """Return why the field's derivative by the state cannot be had of ``torch.func``, or None; ``states`` in float64.

    It is held against a difference quotient: ``detach`` in a field makes a wrong derivative without an error.
    """
    states = states[:SAMPLES].clone()
    times = end_time * torch.linspace(0.1, 0.9, len(states), dtype=states.dtype, device=states.device)
    own = times.reshape(-1, *(1 for _ in states.shape[1:]))
    direction = torch.randn(states.shape, dtype=states.dtype, generator=torch.Generator().manual_seed(0))
    step = _STEP * per_sample(states).abs().amax(dim=1).clamp(min=1e-3).reshape(own.shape)
    direction = direction.to(states.device)
    try:
        tangent = jvp(lambda state: field(own, state), (states,), (direction,))[1]
        if states[0].numel() <= DENSE_JACOBIAN:
            dense_jacobian(field, own[:1], states[:1])
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return f"torch.func cannot differentiate the field ({str(error).splitlines()[0].split('. ')[0]})"
    quotient = (field(own, states + step * direction) - field(own, states - step * direction)) / (2 * step)
    size = per_sample(quotient).abs().amax(dim=1)
    # Rounding in the slopes counts, over the step.
    floor = 1e3 * torch.finfo(states.dtype).eps * per_sample(field(own, states)).abs().amax(dim=1) / step.flatten()
    agree = per_sample(tangent - quotient).abs().amax(dim=1) <= _QUOTIENT_ERROR * size + floor
    if int(agree.sum()) * 2 <= len(states):
        return (
            "the field's derivative by torch.func is not that of its values; is there detach(), .data or a rounding "
            "in it?"
        )
    return None
