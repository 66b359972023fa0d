"""How many bytes of saved tensors are alive at most in a forward and backward pass."""

import weakref

import torch
from torch import Tensor, nn

from ode_core.solvers.solve import solve
from ode_core.specs import GradientMode, SolverSpec

STATE, HIDDEN, BATCH = 2, 50, 4
STATE_BYTES = BATCH * STATE * 8


class Wide(nn.Module):
    """A field whose graph is far larger than the state."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(STATE, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, STATE)).double()

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        result: Tensor = self.network(z)
        return result


class _Kept:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Tally:
    """The bytes that autograd keeps; parameters are there anyway and do not count."""

    def __init__(self) -> None:
        self.alive = self.peak = 0

    def pack(self, tensor: Tensor) -> _Kept | nn.Parameter:
        if isinstance(tensor, nn.Parameter):
            return tensor
        kept = _Kept(tensor)
        size = tensor.numel() * tensor.element_size()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(kept, self._release, size)
        return kept

    def _release(self, size: int) -> None:
        self.alive -= size

    def unpack(self, kept: _Kept | nn.Parameter) -> Tensor:
        return kept.tensor if isinstance(kept, _Kept) else kept


def peak_of_saved_bytes(gradient: GradientMode, solver: SolverSpec) -> int:
    """Return the peak over one forward and backward pass."""
    torch.manual_seed(0)
    field = Wide()
    z0 = torch.randn(BATCH, STATE, dtype=torch.float64)
    tally = _Tally()
    with torch.autograd.graph.saved_tensors_hooks(tally.pack, tally.unpack):
        loss = solve(field, z0, solver, gradient=gradient).final.sum()
        loss.backward()
    return tally.peak
