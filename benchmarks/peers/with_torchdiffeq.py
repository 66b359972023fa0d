"""torchdiffeq: one step size for the whole batch, outputs by interpolation."""

from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from benchmarks.van_der_pol import VanDerPol

VERSIONS = {"torchdiffeq": torchdiffeq.__version__, "torch": torch.__version__}


class _Field(nn.Module):
    """The field, which also counts its calls and the steps that torchdiffeq reports to it."""

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = mu
        self.calls = self.accepted = self.rejected = 0

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        self.calls += 1
        x, v = z.unbind(-1)
        return torch.stack((v, self.mu * (1.0 - x * x) * v - x), dim=-1)

    def callback_accept_step(self, t0: Tensor, z: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def callback_reject_step(self, t0: Tensor, z: Tensor, dt: Tensor) -> None:
        self.rejected += 1


class Candidate:
    """dopri5 of torchdiffeq on one batch of problems."""

    def __init__(self, problem: VanDerPol) -> None:
        torch.set_num_threads(1)
        self._problem = problem
        self._starts, self._times = torch.from_numpy(problem.starts()), torch.from_numpy(problem.times())
        self._field = _Field(problem.mu)
        self._solution = self._starts

    @torch.no_grad()
    def solve(self) -> None:
        """Solve all problems once."""
        self._solution = torchdiffeq.odeint(
            self._field,
            self._starts,
            self._times,
            method="dopri5",
            rtol=self._problem.tolerance,
            atol=self._problem.tolerance,
        )

    def report(self) -> dict[str, Any]:
        """Return the outputs ``(outputs, problems, 2)`` and the counts of one more solve."""
        self._field.calls = self._field.accepted = self._field.rejected = 0
        self.solve()
        field, problems = self._field, self._problem.problems
        return {
            "outputs": self._solution.tolist(),
            "accepted": [field.accepted] * problems,
            "rejected": [field.rejected] * problems,
            "evaluations": [field.calls] * problems,
            "passes": field.accepted + field.rejected,
            "note": "one step for the whole batch",
        }
