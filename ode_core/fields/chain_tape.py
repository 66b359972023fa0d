"""What a dense chain did at every stage of a solve, and its derivative by hand.

One autograd node for a whole solve needs a field that can pull back a cotangent and then give the gradients of its
weights for all evaluations together. For small layers that is where the time is: the gradient of a weight becomes
one large matrix product instead of one small one, and one addition, for every evaluation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ode_core.fields.tape_memory import TapeLayout

if TYPE_CHECKING:
    from ode_core.fields.dense_chain import DenseChain

aten: Any = torch.ops.aten  # its overloads have no types
_threshold_backward = aten.threshold_backward.grad_input  # each look-up costs as much as a small operation


@dataclass(frozen=True)
class _Activation:
    """An activation into a given buffer, and the product of a cotangent with its derivative.

    Attributes:
        apply: ``(x, out)``.
        pull_back: ``(cotangent, saved)``, in place on the cotangent.
        from_output: whether the derivative is known from the output, so that ``out`` may be ``x`` itself.
    """

    apply: Callable[[Tensor, Tensor], object]
    pull_back: Callable[[Tensor, Tensor], object]
    from_output: bool


_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.ReLU: _Activation(
        lambda x, out: torch.relu_(x),
        lambda g, a: _threshold_backward(g, a, 0, grad_input=g),
        from_output=True,
    ),
    nn.Tanh: _Activation(
        lambda x, out: torch.tanh(x, out=out),
        lambda g, a: aten.tanh_backward.grad_input(g, a, grad_input=g),
        from_output=True,
    ),
    nn.SiLU: _Activation(
        lambda x, out: aten.silu.out(x, out=out),
        lambda g, x: aten.silu_backward.grad_input(g, x, grad_input=g),
        from_output=False,
    ),
    nn.GELU: _Activation(
        lambda x, out: aten.gelu.out(x, out=out),
        lambda g, x: aten.gelu_backward.grad_input(g, x, grad_input=g),
        from_output=False,
    ),
    nn.Softplus: _Activation(
        lambda x, out: aten.softplus.out(x, 1, 20, out=out),
        lambda g, x: aten.softplus_backward.grad_input(g, x, 1, 20, grad_input=g),
        from_output=False,
    ),
    nn.ELU: _Activation(
        lambda x, out: aten.elu.out(x, 1, 1, 1, out=out),
        lambda g, x: aten.elu_backward.grad_input(g, 1, 1, 1, False, x, grad_input=g),
        from_output=False,
    ),
}


_USUAL_SETTINGS = {activation: activation().extra_repr() for activation in _ACTIVATIONS}


def knows_activation(layer: nn.Module) -> bool:
    """Whether a layer is one of the known activations, with its usual settings."""
    return type(layer) in _ACTIVATIONS and layer.extra_repr() == _USUAL_SETTINGS[type(layer)]


def activation_slopes(activation: nn.Module, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a known activation makes of ``before``, which is overwritten, and its derivative there."""
    act = _ACTIVATIONS[type(activation)]
    after = before if act.from_output else torch.empty_like(before)
    act.apply(before, after)
    slopes = torch.ones_like(after)
    act.pull_back(slopes, after if act.from_output else before)
    return after, slopes


class ChainTape:
    """Evaluations of a dense chain into slots, and their derivatives. Used by one solve.

    States and slopes are in a layout of the tape's own (``pack``, ``unpack``); the solver only adds them up. A stage
    state is written to ``stage(slot)`` before ``evaluate(slot, ...)``; backwards, slots are pulled back in falling
    order, each after its cotangent was written to ``cotangent(slot)``. There may be more than one backward pass.

    Args:
        chain: the field.
        z: ``(batch, *state)``, for shape, type and device.
        slots: evaluations to remember; a solve that needs no gradient uses the same few again and again.
    """

    def __init__(self, chain: "DenseChain", z: Tensor, slots: int) -> None:
        self._pool, self._shape, self._slots = chain.pool, z.shape, slots
        self._layout = _layout(chain, z)
        self._narrow = self._layout.narrow
        self._memory = self._pool.take(self._layout, slots)
        self._before_evaluation = chain.before_evaluation
        self._act = _ACTIVATIONS[type(chain.activation)]
        self._product: Any = torch.mm if chain.stacked is None else torch.bmm
        self._add_product: Any = torch.addmm if chain.stacked is None else torch.baddbmm
        with torch.no_grad():
            self._weights = [w.detach() for w in chain.weights]
            self._biases = [b.detach().unsqueeze(-2) for b in chain.biases]
            self._last_transposed = self._weights[-1].mT.contiguous()
            self._last_bias = self._biases[-1].mT if self._narrow else self._biases[-1]
            self._time_weight = None if chain.time_weight is None else chain.time_weight.detach().unsqueeze(-2)
        self._hidden_layers = list(zip(self._weights[:-1], self._biases[:-1], strict=True))
        self._transposed: list[Tensor] = []  # of the hidden layers' weights, from the last; for backward passes
        self._times = [0.0] * slots

    def __del__(self) -> None:
        """Leave the memory to the next tape. Nobody else has seen it: what ``unpack`` returns is a copy."""
        if hasattr(self, "_memory"):
            self._pool.give(self._memory)

    def pack(self, z: Tensor) -> Tensor:
        """Return ``(batch, *state)`` as a copy in the tape's layout."""
        rows = z.detach().reshape(self._layout.rows_shape)
        return rows.mT.clone(memory_format=torch.contiguous_format) if self._narrow else rows.clone()

    def unpack(self, values: Tensor) -> Tensor:
        """Return the tape's layout as ``(batch, *state)``, a copy."""
        rows = values.mT if self._narrow else values
        return rows.clone(memory_format=torch.contiguous_format).reshape(self._shape)

    def stage(self, slot: int) -> Tensor:
        """Return where the state of an evaluation is to be written."""
        return self._memory.stages[slot]

    def spread(self, values: Tensor) -> Tensor:
        """Return ``(batch,)`` values in a shape that multiplies states in the tape's layout."""
        by_network = values.reshape(self._layout.rows_shape[:-1])
        return by_network.unsqueeze(-2) if self._narrow else by_network.unsqueeze(-1)

    def evaluate(self, slot: int, t: float | Tensor, out: Tensor) -> None:
        """Write the field at time ``t`` and the state of ``slot`` to ``out``.

        ``t`` may be one time for each sample, as ``spread`` returns them; such an evaluation has no derivative.
        """
        if self._before_evaluation is not None:
            self._before_evaluation()
        memory, add_product, apply = self._memory, self._add_product, self._act.apply
        values = memory.inputs[slot]
        layers = self._hidden_layers if self._time_weight is None else self._hidden_layers_at(slot, t)
        for (weight, bias), before, after in zip(layers, memory.before[slot], memory.after[slot], strict=True):
            add_product(bias, values, weight, out=before)
            apply(before, after)
            values = after
        if self._narrow:
            add_product(self._last_bias, self._last_transposed, memory.last_columns[slot], out=out)
        else:
            add_product(self._last_bias, values, self._weights[-1], out=out)

    def begin_backward(self) -> None:
        """Begin a backward pass: all gradients are zero."""
        if not self._transposed:
            self._transposed = [w.mT.contiguous() for w in reversed(self._weights[:-1])]
        self._weight_gradients: list[Tensor | None] = [None] * len(self._weights)  # the last transposed where narrow
        self._bias_gradients: list[Tensor | None] = [None] * len(self._biases)
        self._time_gradient: Tensor | None = None

    def cotangent(self, slot: int) -> Tensor:
        """Return where the cotangent of an evaluation's slope is to be written."""
        cotangents = self._memory.cotangents
        return cotangents.slopes[slot % cotangents.slots]

    def pull_back(self, slot: int, out: Tensor, *, add: bool) -> None:
        """Write the cotangent of the state of ``slot`` to ``out``, or add it there."""
        cotangents, product, derive = self._memory.cotangents, self._product, self._act.pull_back
        local = slot % cotangents.slots
        g, weight = cotangents.slope_rows[local], self._last_transposed
        layers = zip(cotangents.layers[local], self._memory.before_reversed[slot], self._transposed, strict=True)
        for cotangent, before, transposed in layers:
            product(g, weight, out=cotangent)
            derive(cotangent, before)
            g, weight = cotangent, transposed
        left, right = (self._weights[0], cotangents.first_columns[local]) if self._narrow else (g, weight)
        if add:
            self._add_product(out, left, right, out=out)
        else:
            product(left, right, out=out)
        if local == 0:
            self._gather(slot)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of the chain's ``tensors`` once every slot is pulled back."""
        *weights, last = self._weight_gradients
        assert last is not None
        found = [*weights, last.mT if self._narrow else last, *self._bias_gradients]
        if self._time_weight is not None:
            found.append(self._time_gradient)
        return tuple(gradient for gradient in found if gradient is not None)

    def _hidden_layers_at(self, slot: int, t: float | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the hidden layers with the time's part in the first one's bias."""
        assert self._time_weight is not None
        (weight, bias), *others = self._hidden_layers
        if isinstance(t, Tensor):
            return [(weight, bias + (t.mT if self._narrow else t) * self._time_weight), *others]
        self._times[slot] = t
        return [(weight, torch.add(bias, self._time_weight, alpha=t)), *others]

    def _gather(self, first: int) -> None:
        """Add to the gradients what the slots from ``first`` on, a chunk at most, contribute."""
        memory, cotangents = self._memory, self._memory.cotangents
        count = min(cotangents.slots, self._slots - first)
        states, slopes = memory.states.narrow(0, first, count), cotangents.states.narrow(0, 0, count)
        hidden = [layer.narrow(0, first, count) for layer in memory.hidden]
        gradients = [layer.narrow(0, 0, count) for layer in cotangents.hidden]
        # As (features, rows) and (rows, features) of each layer. The last transposed where states are narrow: a product
        # with few rows is faster than one with few columns.
        pairs = [(values.mT, g) for values, g in zip([states, *hidden], [*gradients, slopes], strict=True)]
        if self._narrow:
            pairs[0], pairs[-1] = (states, gradients[0]), (slopes, hidden[-1])
        for layer, (left, right) in enumerate(pairs):
            self._weight_gradients[layer] = self._accumulated(self._weight_gradients[layer], left, right)
        for layer, g in enumerate([*gradients, slopes.mT if self._narrow else slopes]):
            # Over both dimensions at once is ten times as slow in a stack.
            self._bias_gradients[layer] = _sum(self._bias_gradients[layer], g.sum(dim=-2).sum(dim=0))
        if self._time_weight is not None:
            times = torch.tensor(self._times[first : first + count], dtype=states.dtype, device=states.device)
            part = torch.tensordot(times, gradients[0].sum(dim=-2), dims=1)
            self._time_gradient = _sum(self._time_gradient, part)

    def _accumulated(self, total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
        """Return ``total + sum_k left[k] @ right[k]``, ``total`` itself where there is one."""
        if self._layout.networks is None:
            # All evaluations as one product.
            pairs = [(left.movedim(0, 1).flatten(1), right.flatten(0, 1))]
        else:
            pairs = list(zip(left, right, strict=True))
        for one, other in pairs:
            total = self._product(one, other) if total is None else self._add_product(total, one, other, out=total)
        assert total is not None
        return total


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _layout(chain: "DenseChain", z: Tensor) -> TapeLayout:
    return TapeLayout(
        networks=chain.stacked,
        batch=len(z) // (chain.stacked or 1),
        features=math.prod(z.shape[1:]),
        widths=tuple(w.shape[-1] for w in chain.weights[:-1]),
        keeps_both=not _ACTIVATIONS[type(chain.activation)].from_output,
        dtype=z.dtype,
        device=z.device,
    )
