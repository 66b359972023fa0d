"""What a dense chain did at every stage of a solve, and its derivative by hand.

One autograd node for a whole solve needs a field that can pull back a cotangent and then give the gradients of its
weights for all evaluations together. For small layers that is where the time is: the gradient of a weight becomes
one large matrix product instead of one small one, and one addition, for every evaluation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from ode_core.fields.dense_chain import DenseChain

aten: Any = torch.ops.aten  # its overloads have no types

# States this narrow lie in memory feature by feature: a matrix product with two columns is three times as slow as
# one with two rows.
_NARROW = 8
# Rows of cotangents that are gathered before their product with the activations: enough for full speed.
_ROWS = 2048


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
        lambda g, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=g),
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


def knows_activation(layer: nn.Module) -> bool:
    """Whether a layer is one of the known activations, with its usual settings."""
    return type(layer) in _ACTIVATIONS and repr(layer) == repr(type(layer)())


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
        self._borrowed: list[Tensor] = []
        self._chain, self._pool, self._shape = chain, chain.pool, z.shape
        self._act = _ACTIVATIONS[type(chain.activation)]
        networks = 1 if chain.stacked is None else chain.stacked
        self._lead = () if chain.stacked is None else (networks,)
        self._product: Any = torch.mm if chain.stacked is None else torch.bmm
        self._add_product: Any = torch.addmm if chain.stacked is None else torch.baddbmm
        self._batch, self._n = len(z) // networks, z[0].numel() if len(z) else 0
        self._narrow = self._n <= _NARROW
        self._times = [0.0] * slots
        with torch.no_grad():
            self._weights = [w.detach() for w in chain.weights]
            self._biases = [b.detach().unsqueeze(-2) for b in chain.biases]
            self._last_transposed = self._weights[-1].mT.contiguous()
            self._last_bias = self._biases[-1].mT if self._narrow else self._biases[-1]
            self._time_weight = None if chain.time_weight is None else chain.time_weight.detach().unsqueeze(-2)
        self._stage_buffer, self._stages = self._state_slots(slots, z)
        self._inputs = [stage.mT for stage in self._stages] if self._narrow else self._stages  # as rows
        self._hidden_buffers: list[Tensor] = []  # those of the activations first
        self._hidden = [self._rows(slots, w.shape[-1], z) for w in self._weights[:-1]]
        self._before = self._hidden
        if not self._act.from_output:
            self._before = [self._rows(slots, w.shape[-1], z) for w in self._weights[:-1]]
        self._chunk = 0  # slots of cotangents; none before the first backward pass

    def pack(self, z: Tensor) -> Tensor:
        """Return ``(batch, *state)`` as a copy in the tape's layout."""
        rows = z.detach().reshape(*self._lead, self._batch, self._n)
        return rows.mT.clone(memory_format=torch.contiguous_format) if self._narrow else rows.clone()

    def unpack(self, values: Tensor) -> Tensor:
        """Return the tape's layout as ``(batch, *state)``, a copy."""
        rows = values.mT if self._narrow else values
        return rows.clone(memory_format=torch.contiguous_format).reshape(self._shape)

    def stage(self, slot: int) -> Tensor:
        """Return where the state of an evaluation is to be written."""
        return self._stages[slot]

    def spread(self, values: Tensor) -> Tensor:
        """Return ``(batch,)`` values in a shape that multiplies states in the tape's layout."""
        by_network = values.reshape(*self._lead, self._batch)
        return by_network.unsqueeze(-2) if self._narrow else by_network.unsqueeze(-1)

    def evaluate(self, slot: int, t: float | Tensor, out: Tensor) -> None:
        """Write the field at time ``t`` and the state of ``slot`` to ``out``.

        ``t`` may be one time for each sample, as ``spread`` returns them; such an evaluation has no derivative.
        """
        if self._chain.before_evaluation is not None:
            self._chain.before_evaluation()
        bias = self._biases[0]
        if isinstance(t, Tensor):
            if self._time_weight is not None:
                bias = bias + (t.mT if self._narrow else t) * self._time_weight
        else:
            self._times[slot] = t
            if self._time_weight is not None:
                bias = torch.add(bias, self._time_weight, alpha=t)
        values = self._inputs[slot]
        for i in range(len(self._hidden)):
            before, after = self._before[i][slot], self._hidden[i][slot]
            self._add_product(self._biases[i] if i else bias, values, self._weights[i], out=before)
            self._act.apply(before, after)
            values = after
        if self._narrow:
            self._add_product(self._last_bias, self._last_transposed, values.mT, out=out)
        else:
            self._add_product(self._last_bias, values, self._weights[-1], out=out)

    def begin_backward(self) -> None:
        """Begin a backward pass: all gradients are zero."""
        if not self._chunk:
            self._open_cotangents()
        self._weight_gradients = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in self._weights]
        if self._narrow:
            self._weight_gradients[-1] = self._weight_gradients[-1].mT.contiguous()
        self._bias_gradients = [torch.zeros_like(b, memory_format=torch.contiguous_format) for b in self._biases]
        time_weight = self._chain.time_weight
        self._time_gradient = None if time_weight is None else torch.zeros_like(time_weight)

    def cotangent(self, slot: int) -> Tensor:
        """Return where the cotangent of an evaluation's slope is to be written."""
        return self._cotangents[slot % self._chunk]

    def pull_back(self, slot: int, out: Tensor, *, add: bool) -> None:
        """Write the cotangent of the state of ``slot`` to ``out``, or add it there."""
        local = slot % self._chunk
        g = self._gradients[-1][local]
        cotangent = self._cotangents[local]
        self._product(cotangent.mT if self._narrow else cotangent, self._last_transposed, out=g)
        for i in range(len(self._hidden) - 1, -1, -1):
            self._act.pull_back(g, self._before[i][slot])
            if i:
                self._product(g, self._transposed[i], out=self._gradients[i - 1][local])
                g = self._gradients[i - 1][local]
        left, right = (self._weights[0], g.mT) if self._narrow else (g, self._transposed[0])
        if add:
            self._add_product(out, left, right, out=out)
        else:
            self._product(left, right, out=out)
        if local == 0:
            self._gather(slot)

    def gradients(self) -> tuple[Tensor, ...]:
        """Return the gradients of the chain's ``tensors`` once every slot is pulled back."""
        weights, last = self._weight_gradients[:-1], self._weight_gradients[-1]
        biases = [b.squeeze(-2) for b in self._bias_gradients]
        time = () if self._time_gradient is None else (self._time_gradient,)
        return (*weights, last.mT if self._narrow else last, *biases, *time)

    def __del__(self) -> None:
        """Leave the memory to the next tape. Nobody else has seen it: what ``unpack`` returns is a copy."""
        for buffer in self._borrowed:
            self._pool.give(buffer)

    def _take(self, shape: Sequence[int], like: Tensor) -> Tensor:
        buffer = self._pool.take(shape, like)
        self._borrowed.append(buffer)
        return buffer

    def _state_slots(self, slots: int, like: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return memory for states with the slots next to the batch, and each slot's part of it."""
        if self._narrow:
            buffer = self._take((*self._lead, self._n, slots, self._batch), like)
            return buffer, list(buffer.unbind(-2))
        buffer = self._take((*self._lead, slots, self._batch, self._n), like)
        return buffer, list(buffer.unbind(-3))

    def _rows(self, slots: int, width: int, like: Tensor) -> list[Tensor]:
        buffer = self._take((*self._lead, slots, self._batch, width), like)
        self._hidden_buffers.append(buffer)
        return list(buffer.unbind(-3))

    def _open_cotangents(self) -> None:
        like = self._weights[0]
        self._chunk = min(len(self._stages), max(1, _ROWS // max(1, self._batch)))
        self._cotangent_buffer, self._cotangents = self._state_slots(self._chunk, like)
        widths = [w.shape[-1] for w in self._weights[:-1]]
        self._gradient_buffers = [self._take((*self._lead, self._chunk, self._batch, w), like) for w in widths]
        self._gradients = [list(buffer.unbind(-3)) for buffer in self._gradient_buffers]
        self._transposed = [w.mT.contiguous() for w in self._weights[:-1]]

    def _gather(self, first: int) -> None:
        """Add to the weights' gradients what the slots from ``first`` on, a chunk at most, contribute."""
        count = min(self._chunk, len(self._stages) - first)
        here = slice(first, first + count)
        gradients = [g.narrow(-3, 0, count).flatten(-3, -2) for g in self._gradient_buffers]
        inputs = [self._part(i, here) for i in range(len(self._hidden))]
        for i, (g, rows) in enumerate(zip(gradients[1:], inputs[:-1], strict=True), start=1):
            self._accumulate(self._weight_gradients[i], rows.mT, g)
        for total, g in zip(self._bias_gradients[:-1], gradients, strict=True):
            total += g.sum(dim=-2, keepdim=True)
        if self._narrow:
            stages = self._stage_buffer.narrow(-2, first, count).flatten(-2)
            cotangents = self._cotangent_buffer.narrow(-2, 0, count).flatten(-2)
            self._accumulate(self._weight_gradients[0], stages, gradients[0])
            # The transpose: a product with few rows is faster than one with few columns.
            self._accumulate(self._weight_gradients[-1], cotangents, inputs[-1])
            self._bias_gradients[-1] += cotangents.sum(dim=-1).unsqueeze(-2)
        else:
            stages = self._stage_buffer.narrow(-3, first, count).flatten(-3, -2)
            cotangents = self._cotangent_buffer.narrow(-3, 0, count).flatten(-3, -2)
            self._accumulate(self._weight_gradients[0], stages.mT, gradients[0])
            self._accumulate(self._weight_gradients[-1], inputs[-1].mT, cotangents)
            self._bias_gradients[-1] += cotangents.sum(dim=-2, keepdim=True)
        if self._time_gradient is not None:
            times = torch.tensor(self._times[here], dtype=stages.dtype, device=stages.device)
            self._time_gradient += times @ self._gradient_buffers[0].narrow(-3, 0, count).sum(dim=-2)

    def _part(self, layer: int, slots: slice) -> Tensor:
        """Return a hidden layer's values of some slots as rows."""
        return self._hidden_buffers[layer].narrow(-3, slots.start, slots.stop - slots.start).flatten(-3, -2)

    def _accumulate(self, total: Tensor, left: Tensor, right: Tensor) -> None:
        self._add_product(total, left, right, out=total)
