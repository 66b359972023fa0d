"""torchode: a step size for each problem, outputs by interpolation."""

import importlib.metadata
from typing import Any

import torch
import torchode
from torch import Tensor

from benchmarks.van_der_pol import VanDerPol

VERSIONS = {"torchode": importlib.metadata.version("torchode"), "torch": torch.__version__}


class Candidate:
    """Dopri5 of torchode on one batch of problems, with ``solve`` compiled (25 ms instead of 63)."""

    def __init__(self, problem: VanDerPol) -> None:
        torch.set_num_threads(1)
        starts, times = torch.from_numpy(problem.starts()), torch.from_numpy(problem.times())
        mu = problem.mu

        def field(t: Tensor, z: Tensor) -> Tensor:
            x, v = z.unbind(-1)
            return torch.stack((v, mu * (1.0 - x * x) * v - x), dim=-1)

        term = torchode.ODETerm(field)
        control = torchode.IntegralController(atol=problem.tolerance, rtol=problem.tolerance, term=term)
        # torch.compile(solver), which its documentation shows, leaves solver.solve as it was: nothing is compiled.
        self._solve = torch.compile(torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control).solve)
        self._problem = torchode.InitialValueProblem(y0=starts, t_eval=times.expand(len(starts), -1))
        self._solution: Any = None

    @torch.no_grad()
    def solve(self) -> None:
        """Solve all problems once."""
        self._solution = self._solve(self._problem)

    def report(self) -> dict[str, Any]:
        """Return the outputs ``(outputs, problems, 2)`` and the counts of the last solve."""
        stats = self._solution.stats
        steps, accepted = stats["n_steps"], stats["n_accepted"]
        return {
            "outputs": self._solution.ys.transpose(0, 1).tolist(),
            "accepted": accepted.tolist(),
            "rejected": (steps - accepted).tolist(),
            "evaluations": stats["n_f_evals"].tolist(),
            "passes": int(steps.max()),
            "note": "",
        }
