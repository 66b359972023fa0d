"""A classifier that was made elsewhere: any field ``f(t, z)``, with what comes before and after it."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from ode_core.fields.field_checks import SAMPLES, check_field, check_part, in_float64, in_own_precision
from ode_core.fields.foreign_field import CallSignature, ForeignField, NotAuditable, call_signature, field_of
from ode_core.fields.function_weights import weights_of_function
from ode_core.fields.multiplications import Multiplications
from ode_core.fields.typed_constants import ForeignPart
from ode_core.models.classifier import ClassifierOutput, counted_in_trained_field
from ode_core.solvers.solve import solve_together
from ode_core.specs.repair import affordable_evaluations
from ode_core.specs.solver import SolverSpec

# What a call of a field costs that is made for one sample or two at a time, in multiplications.
_LONE_CALL = 1_000_000
_CHANGING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.modules.batchnorm._NormBase)


class ForeignClassifier(nn.Module):
    """``head . ODESolve(field, interval) . stem`` of parts that were written for another library.

    Made by ``foreign_classifier``, which copies and checks the parts.

    Attributes:
        stem: from inputs ``(batch, *shape)`` to states, or None.
        field: the vector field over ``[0, end_time]``.
        head: from final states to logits ``(batch, classes)``.
        state_shape: shape of the ODE's state for one sample.
        end_time: length of the interval.
        classes: number of classes.
        notes: what was done to the parts, in words.
        evaluations_in_field: calls of the given field in one evaluation of ``field``, which may be a modified one.
    """

    def __init__(
        self,
        stem: ForeignPart | None,
        field: ForeignField,
        head: ForeignPart | None,
        end_time: float,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.stem, self.field = stem, field
        self.head: nn.Module = nn.Identity() if head is None else head
        self.end_time = end_time
        self.state_shape: tuple[int, ...] = ()
        self.classes = 0
        self.notes: list[str] = []
        self.evaluations_in_field = 1
        # Parts may be functions without a parameter: this follows ``double``.
        self.register_buffer("_precision", torch.empty(0, dtype=dtype, device=device), persistent=False)

    _precision: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The precision the model computes in."""
        return self._precision.dtype

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._precision.device

    def uncompiled(self) -> Self:
        """Return the model: its steps are never compiled."""
        return self

    def initial_state(self, inputs: Tensor) -> Tensor:
        """Return the ODE's start ``(batch, *state_shape)``; integer inputs of a stem stay integers."""
        if self.stem is None:
            return inputs.to(self.dtype)
        result: Tensor = self.stem(inputs.to(self.dtype) if inputs.is_floating_point() else inputs)
        return result

    def float32_products(self) -> AbstractContextManager[None]:
        """Return a setting that changes nothing: the process's own was the training's."""
        return nullcontext()

    @torch.no_grad()
    def run_together(
        self, inputs: Tensor, solvers: Sequence[SolverSpec], *, max_evaluations: int | None = None
    ) -> list[ClassifierOutput]:
        """Return logits and solution for ``inputs`` under each of ``solvers``, without gradients."""
        solutions = solve_together(
            self.field,
            self.initial_state(inputs),
            solvers,
            t1=self.end_time,
            max_evaluations=affordable_evaluations(max_evaluations, self.evaluations_in_field),
            compilation="never",
        )
        return [
            ClassifierOutput(self.head(solution.final), counted_in_trained_field(solution, self.evaluations_in_field))
            for solution in solutions
        ]

    @torch.no_grad()
    def operations(self, inputs: Tensor) -> int:
        """Return the multiplications of one evaluation of the field for one sample, roughly."""
        z = self.initial_state(inputs[:1].to(self.device))
        counted = Multiplications()
        with counted:
            self.field(z.new_zeros(()), z)
        return counted.count + _LONE_CALL if self.field.times == "grouped" else counted.count


def foreign_classifier(
    field: Callable[..., Any],
    inputs: Tensor,
    *,
    stem: Callable[[Tensor], Tensor] | None = None,
    head: Callable[[Tensor], Tensor] | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    signature: CallSignature | None = None,
) -> ForeignClassifier:
    """Return copies of the parts as a classifier, in evaluation mode and checked on the first of ``inputs``.

    Args:
        field: ``f(t, z)``, ``f(z, t)`` or ``f(z)``, a module or a function; or a torchdyn ``NeuralODE``.
        inputs: ``(n, *shape)``, those to be audited.
        stem: from inputs to states; None: inputs are states.
        head: from states to logits ``(batch, classes)``; None: states are logits.
        interval: start and end time of the ODE, the end before or after the start.
        signature: how the field is called; None goes by the names of its arguments.

    Raises:
        NotAuditable: with what is to be changed.
    """
    t0, t1 = (float(t) for t in interval)
    if not (math.isfinite(t0) and math.isfinite(t1)) or t0 == t1:
        raise NotAuditable(f"the interval must be two different finite times; it is {t0:g} to {t1:g}")
    stem, head = _written(stem), _written(head)
    function = field_of(_written(field))
    if signature is not None and signature not in get_args(CallSignature):
        raise NotAuditable(f"the signature is 't, z', 'z, t' or 'z', and not {signature!r}")
    called = signature or call_signature(function)
    dtype, device = _precision_of((stem, function, head), inputs)
    stem, function, head = _copies(stem, function, head)
    direction: Literal[1, -1] = 1 if t1 > t0 else -1
    model = ForeignClassifier(
        None if stem is None else ForeignPart(stem, own_arguments=True),
        ForeignField(ForeignPart(function), called, start=t0, direction=direction),
        None if head is None else ForeignPart(head, own_arguments=True),
        abs(t1 - t0),
        dtype,
        device,
    )
    model.notes = _notes(model)
    model.eval().requires_grad_(False)
    _check(model, inputs[:SAMPLES].to(device))
    return model


def _written(part: Any) -> Any:
    """Return a part as it was written: that which was compiled, where it was, whose derivatives are wanted, too."""
    if isinstance(part, torch.jit.ScriptModule):
        raise NotAuditable("a part is a scripted module, which is not copied: give the module it was made from")
    return getattr(part, "_orig_mod", part)


def _precision_of(parts: Sequence[Any], inputs: Tensor) -> tuple[torch.dtype, torch.device]:
    modules = [part for part in parts if isinstance(part, nn.Module)]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    devices = {tensor.device for tensor in tensors}
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(devices) > 1:
        raise NotAuditable(f"the parts are on {_listed(devices)}: move all to one device")
    if len(types) > 1:
        raise NotAuditable(f"the weights are of {_listed(types)}: use one precision, for example with .float()")
    device = devices.pop() if devices else torch.device("cpu")
    if device.type in ("meta", "mps"):
        raise NotAuditable(
            f"the reference is computed in float64, which {device.type} cannot: move the parts to the CPU"
        )
    if not types:
        return (torch.float64 if inputs.dtype == torch.float64 else torch.float32), device
    dtype = types.pop()
    if dtype not in (torch.float32, torch.float64):
        raise NotAuditable(f"the weights are of {dtype}; audited are float32 and float64: use .float()")
    return dtype, device


def _listed(things: set[Any]) -> str:
    return " and ".join(sorted(map(str, things)))


def _copies(*parts: Any) -> tuple[Any, ...]:
    """Return copies of the parts, together, so that what they share stays shared."""
    try:
        return copy.deepcopy(parts)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise NotAuditable(
            f"the model cannot be copied, which the audit does to leave it as it is ({error}). A tensor with a graph "
            f"that a part keeps from training is a usual reason: detach it, or set it to None"
        ) from error


def _notes(model: ForeignClassifier) -> list[str]:
    changing = sorted(
        {type(part).__name__ for part in model.modules() if part.training and isinstance(part, _CHANGING)}
    )
    if not changing:
        return []
    return [
        f"It came in training mode and was audited in evaluation mode: {', '.join(changing)} behaved otherwise in "
        f"training."
    ]


@torch.no_grad()
def _check(model: ForeignClassifier, inputs: Tensor) -> None:
    exact = copy.deepcopy(model).double()
    states = _in_float64("the stem", exact.stem, model.stem, lambda: exact.initial_state(inputs))
    if isinstance(states, tuple | list | dict) or not isinstance(states, Tensor):
        raise NotAuditable(
            f"the stem returns a {type(states).__name__}; the state must be one tensor (batch, *state). Put the parts "
            f"into one tensor, and take them apart in the field"
        )
    if states.ndim < 2 or len(states) != len(inputs) or states[0].numel() == 0:
        raise NotAuditable(
            f"the first states have shape {list(states.shape)} for {len(inputs)} inputs; they must be (batch, *state)"
        )
    if states.dtype != torch.float64:
        raise NotAuditable(f"the first states are of {states.dtype}: the stem must make floating-point states")
    if model.stem is not None:
        check_part("the stem", exact.initial_state, inputs, states)
    _in_float64(
        "the field",
        exact.field.function,
        model.field.function,
        lambda: exact.field(states.new_zeros(()), states.clone()),
    )
    model.field.times = check_field(exact.field, states, model.end_time)
    logits = _in_float64("the head", exact.head, model.head, lambda: exact.head(states))
    _check_logits(model, logits, states)
    if isinstance(model.head, ForeignPart):
        check_part("the head", exact.head, states, logits)
    model.state_shape = tuple(states.shape[1:])
    start = in_own_precision("the stem", model.dtype, lambda: model.initial_state(inputs))
    own = in_own_precision("the field", model.dtype, lambda: model.field(start.new_zeros(()), start))
    in_own_precision("the head", model.dtype, lambda: model.head(start))
    if start.dtype != model.dtype or own.dtype != model.dtype:
        raise NotAuditable(
            f"the weights are of {model.dtype}, but the states {start.dtype} and the field's values {own.dtype}: "
            f"leave out autocast and casts"
        )


def _in_float64(what: str, exact: Any, own: Any, call: Callable[[], Any]) -> Any:
    """Return what a part gives in float64; where it makes float32 constants, set it and its original to make others."""
    try:
        return in_float64(what, call)
    except NotAuditable:
        if not isinstance(exact, ForeignPart):
            raise
        exact.typed_constants = own.typed_constants = True
        try:
            return in_float64(what, call)
        except NotAuditable as error:
            _refuse_kept_weights(what, own.function, error)
            raise


def _refuse_kept_weights(what: str, function: Any, error: NotAuditable) -> None:
    kept = weights_of_function(function)
    if kept is not None:
        raise NotAuditable(
            f"{what} is a function that uses the weights of {kept}. Give the module itself: a function's weights "
            f"cannot be copied to float64"
        ) from error


def _check_logits(model: ForeignClassifier, logits: Any, states: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(states):
        shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        whose = "the head returns" if not isinstance(model.head, nn.Identity) else "without a head the logits are"
        raise NotAuditable(
            f"{whose} {shape} for {len(states)} states; logits must be (batch, classes). "
            f"Only classifiers are audited: for regression and densities there is no flip of a label to count"
        )
    if logits.shape[1] < 2:
        raise NotAuditable(
            "the head returns one number a sample. Of a classifier with one logit, give both: "
            "head=lambda z: torch.cat([torch.zeros_like(logit := head(z)), logit], dim=1). Regression is not audited"
        )
    model.classes = logits.shape[1]
