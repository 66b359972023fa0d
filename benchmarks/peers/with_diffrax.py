"""diffrax: one problem, vectorised over the batch by ``jax.vmap`` and compiled by XLA; outputs by interpolation."""

from typing import Any

import diffrax
import jax
import numpy
from jax import numpy as jnp

from benchmarks.van_der_pol import VanDerPol

VERSIONS = {"diffrax": diffrax.__version__, "jax": jax.__version__}

EVALUATIONS_A_STEP = 6  # Dopri5: seven stages, the first of which is the last of the step before


class Candidate:
    """Dopri5 of diffrax on one batch of problems."""

    def __init__(self, problem: VanDerPol) -> None:
        jax.config.update("jax_enable_x64", True)
        self._problem, self._starts = problem, jnp.asarray(problem.starts())
        self._solve = jax.jit(jax.vmap(self._one))
        self._solution: Any = None

    def _field(self, t: Any, z: Any, arguments: Any) -> Any:
        x, v = z
        return jnp.stack((v, self._problem.mu * (1.0 - x * x) * v - x))

    def _one(self, start: Any) -> Any:
        tolerance = self._problem.tolerance
        return diffrax.diffeqsolve(
            diffrax.ODETerm(self._field),
            diffrax.Dopri5(),
            t0=0.0,
            t1=self._problem.end,
            dt0=None,
            y0=start,
            saveat=diffrax.SaveAt(ts=jnp.asarray(self._problem.times())),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        )

    def solve(self) -> None:
        """Solve all problems once."""
        self._solution = jax.block_until_ready(self._solve(self._starts))

    def report(self) -> dict[str, Any]:
        """Return the outputs ``(outputs, problems, 2)`` and the counts of the last solve.

        diffrax does not count evaluations: they are counted on the first problem alone, where the field calls
        back, and what it takes besides those of its steps is added for every problem.
        """
        stats = {name: numpy.asarray(value) for name, value in self._solution.stats.items() if value is not None}
        steps = stats["num_steps"]
        besides = self._evaluations_of_first() - EVALUATIONS_A_STEP * int(steps[0])
        return {
            "outputs": numpy.asarray(self._solution.ys).transpose(1, 0, 2).tolist(),
            "accepted": stats["num_accepted_steps"].tolist(),
            "rejected": stats["num_rejected_steps"].tolist(),
            "evaluations": (EVALUATIONS_A_STEP * steps + besides).tolist(),
            "passes": int(steps.max()),
            "note": "",
        }

    def _evaluations_of_first(self) -> int:
        counting = _Counting(self._problem)
        jax.block_until_ready(jax.jit(counting._one)(self._starts[0]))
        jax.effects_barrier()
        return counting.calls


class _Counting(Candidate):
    def __init__(self, problem: VanDerPol) -> None:
        super().__init__(problem)
        self.calls = 0

    def _count(self) -> None:
        self.calls += 1

    def _field(self, t: Any, z: Any, arguments: Any) -> Any:
        jax.debug.callback(self._count)
        return super()._field(t, z, arguments)
