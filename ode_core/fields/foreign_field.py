"""A vector field that was written for another library, called as that library calls it.

torchdiffeq and torchdyn give one 0-d time for the whole batch; solvers with a step of each sample's own need one for
each sample. What a field makes of ``(batch, 1, ..., 1)`` times is tried before it is relied upon (``field_checks``);
one that cannot take them is called for one sample at a time, or for those that share a time.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import vmap

from ode_core.solvers.solution import is_plain

CallSignature = Literal["t, z", "z, t", "z"]
"""How a field is called: time first as in torchdiffeq, state first, or without the time."""

TimeMode = Literal["batched", "mapped", "grouped"]
"""What is done with a time for each sample: it is given as ``(batch, 1, ..., 1)``; the field is mapped over the samples
by ``torch.func.vmap``; or samples of one time are evaluated together, one time after another, which takes long."""

_TIMES = {"t", "time", "times", "tau", "s"}
_SAY_WHICH = "give signature='t, z', 'z, t' or 'z'"


class NotAuditable(ValueError):
    """A model or its data cannot be audited as they are; the message says what to change."""


class ForeignField(nn.Module):
    """A foreign field over ``[start, start + direction * end_time]`` as one over ``[0, end_time]``.

    Attributes:
        function: the field as it was given.
        signature: how it is called.
        start: its time at our time 0.
        direction: 1, or -1 where its time runs backwards.
        times: what is done with a time for each sample.
        before_evaluation: called before every evaluation; an exception it raises ends the solve.
    """

    before_evaluation: Callable[[], None] | None = None

    def __init__(
        self,
        function: Callable[..., Tensor],
        signature: CallSignature,
        *,
        start: float = 0.0,
        direction: Literal[1, -1] = 1,
        times: TimeMode = "batched",
    ) -> None:
        super().__init__()
        self.function, self.signature = function, signature
        self.start, self.direction, self.times = start, direction, times

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt``; ``t`` is 0-d or ``(batch, 1, ..., 1)``."""
        if self.before_evaluation is not None:
            self.before_evaluation()
        if self.start != 0 or self.direction != 1:
            t = self.start + self.direction * t
        slope = self._evaluate(t, z)
        return slope if self.direction == 1 else -slope

    def for_states(self, state_shape: tuple[int, ...]) -> "ForeignField":
        """Return the field itself: there is nothing to prepare."""
        return self

    def _evaluate(self, t: Tensor, z: Tensor) -> Tensor:
        if self.signature == "z" or t.ndim == 0 or self.times == "batched":
            return self._call(t, z)
        if len(z) == 0:
            return torch.zeros_like(z)
        return self._mapped(t, z) if self.times == "mapped" else self._grouped(t, z)

    def _call(self, t: Tensor, z: Tensor) -> Tensor:
        if self.signature == "z":
            return self.function(z)
        return self.function(t, z) if self.signature == "t, z" else self.function(z, t)

    def _mapped(self, t: Tensor, z: Tensor) -> Tensor:
        def of_one(time: Tensor, state: Tensor) -> Tensor:
            return self._call(time, state.unsqueeze(0)).squeeze(0)

        with _attributes_restored(self.function):
            slopes: Tensor = vmap(of_one)(t.flatten(), z)
        return slopes

    def _grouped(self, t: Tensor, z: Tensor) -> Tensor:
        times = t.flatten()
        # A time that is differentiated carries a tangent of its own in every sample, equal or not.
        values, group = (
            torch.unique(times, return_inverse=True)
            if is_plain(times)
            else (times, torch.arange(len(times), device=times.device))
        )
        order = torch.argsort(group, stable=True)
        counts: list[int] = torch.bincount(group, minlength=len(values)).tolist()
        parts = [
            self._call(time, rows) for time, rows in zip(values.unbind(), torch.split(z[order], counts), strict=True)
        ]
        return torch.cat(parts)[torch.argsort(order)]


@contextmanager
def _attributes_restored(function: Callable[..., Tensor]) -> Iterator[None]:
    """Put plain tensor attributes back: what a field keeps from a mapped call is of no use after it, nor copied."""
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    before = [dict(module.__dict__) for module in modules]
    try:
        yield
    finally:
        for module, kept in zip(modules, before, strict=True):
            for name, value in list(module.__dict__.items()):
                if isinstance(value, Tensor):
                    if name in kept:
                        module.__dict__[name] = kept[name]
                    else:
                        del module.__dict__[name]


def call_signature(function: Callable[..., Any]) -> CallSignature:
    """Return how a field wants to be called, by the names of its arguments.

    Raises:
        NotAuditable: they do not tell.
    """
    names = _required_arguments(function)
    what = type(function).__name__
    if names is None or len(names) == 0:
        raise NotAuditable(f"the arguments of {what} do not tell which is the time: {_SAY_WHICH}")
    first_is_time = names[0].lower() in _TIMES
    if len(names) == 1 and not first_is_time:
        _refuse_solver_inside(function)
        return "z"
    if len(names) == 2 and first_is_time and names[1].lower() not in _TIMES:
        return "t, z"
    if len(names) == 2 and names[1].lower() in _TIMES and not first_is_time:
        return "z, t"
    raise NotAuditable(f"{what} takes ({', '.join(names)}), which does not tell which is the time: {_SAY_WHICH}")


def _required_arguments(function: Callable[..., Any]) -> list[str] | None:
    """Return the names of the positional arguments without a default, and a time with one; None where unknown."""
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):
        return None
    if any(one.kind == one.VAR_POSITIONAL for one in parameters.values()):
        return None
    return [
        name
        for name, one in parameters.items()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        and (one.default is one.empty or name.lower() in _TIMES)
    ]


def _refuse_solver_inside(function: Callable[..., Any]) -> None:
    """A block that solves an ODE maps states to states too, and would pass for a field without time."""
    if not isinstance(function, nn.Module):
        return
    for name, part in function.named_modules():
        names = _required_arguments(part) if part is not function else None
        if names is not None and len(names) >= 2 and names[0].lower() in _TIMES:
            raise NotAuditable(
                f"{type(function).__name__} seems to be a block that solves an ODE, and its part '{name}' the field: "
                f"give that as the field, and what is around it as stem and head. If it is the field itself, say "
                f"signature='z'"
            )


def field_of(given: Callable[..., Any]) -> Callable[..., Any]:
    """Return the vector field in what was given: of a torchdyn ``NeuralODE``, its ``vf``; else what was given.

    Raises:
        NotAuditable: the field is one of torchdyn's that depends on more than time and state.
    """
    if not isinstance(given, nn.Module):
        return given
    field = given
    # By its shape, without importing torchdyn: what forward takes and what is in it.
    if isinstance(getattr(given, "vf", None), nn.Module) and "t_span" in inspect.signature(given.forward).parameters:
        field = given.vf  # type: ignore[assignment]
    for name, part in field.named_modules():
        if hasattr(part, "_control"):
            raise NotAuditable(
                f"the part '{name}' keeps the start of a batch (data control), so that the field depends on more than "
                f"(t, z): put the control into the state, with derivative 0"
            )
        if hasattr(part, "trace_estimator"):
            raise NotAuditable(f"the part '{name}' is a continuous normalising flow's: only classifiers are audited")
        if getattr(part, "integral_loss", None) is not None:
            raise NotAuditable("the field carries an integral loss in its state: build it without for the audit")
    return field
