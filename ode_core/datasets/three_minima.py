"""A damped particle in a potential with three minima, and in which of them it comes to rest.

    x' = v,    v' = -V'(x) - 0.2 v,    V'(x) = 1.2 x^5 - 2.5 x^4 - 0.768 x^3 + 2.364 x^2 + 0.176 x - 0.192

Source: Ott et al., ResNet After All, ICLR 2021, which follows the flow with rk4 and h = 0.02 to t = 100. On the way
that is exact to about 1e-6: only a start so near to the boundary between two basins could get the wrong label.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Polynomial

Array = npt.NDArray[np.float64]

SLOPE = Polynomial([-0.192, 0.176, 2.364, -0.768, -2.5, 1.2])
POTENTIAL = SLOPE.integ()
DAMPING = 0.2
STEP, END = 0.02, 100.0
# A particle that starts close to the ridge between two minima may take longer. The time it hangs there grows with
# minus the logarithm of its distance: in ten times the time float64 cannot hold it there.
LATEST = 10 * END

_AT_ONCE = 4096  # particles whose numbers stay in the processor's cache


class NotSettled(RuntimeError):
    """Particles are still on the ridge between two minima at ``LATEST``; no label would be right."""


@lru_cache(maxsize=1)
def equilibria() -> tuple[Array, Array]:
    """Return the potential's three minima ``(3,)`` and the two maxima ``(2,)`` between them, from left to right."""
    roots = np.sort(SLOPE.roots().real)
    return roots[::2], roots[1::2]


def flow(points: Array, duration: float) -> Array:
    """Return where particles that start at ``points`` ``(n, 2)`` of position and velocity are after ``duration``."""
    steps = round(duration / STEP)
    ends = [_rk4(part, steps) for part in np.array_split(points, max(1, -(-len(points) // _AT_ONCE)))]
    return np.concatenate(ends)


def resting_minimum(points: Array) -> npt.NDArray[np.int64]:
    """Return the number ``(n,)`` of the minimum, from left to right, in which each particle comes to rest.

    It is decided when the particle's energy is below that of the maxima around it: energy is only lost, so it cannot
    leave any more. Particles for which it is not by t = 100 are followed on until it is.

    Raises:
        NotSettled: some are not decided at ``LATEST``.
    """
    labels = np.full(len(points), -1, dtype=np.int64)
    state, time = flow(points, END), END
    undecided = np.arange(len(points))
    while True:
        decided = _is_caught(state)
        labels[undecided[decided]] = _well(state[decided, 0])
        undecided, state = undecided[~decided], state[~decided]
        if not len(undecided):
            return labels
        if time >= LATEST:
            raise NotSettled(f"{len(undecided)} particles have not settled by t = {time:g}: use another seed")
        state, time = flow(state, END), time + END


def _well(x: Array) -> npt.NDArray[np.int64]:
    """Return between which maxima a position lies."""
    return np.searchsorted(equilibria()[1], x).astype(np.int64)


def _is_caught(state: Array) -> npt.NDArray[np.bool_]:
    """Return where the energy is below that of the lower maximum beside the particle."""
    x, v = state.T
    ridges = POTENTIAL(equilibria()[1])
    barrier = np.array([ridges[0], ridges.min(), ridges[1]])[_well(x)]
    energy = v**2 / 2 + POTENTIAL(x)
    caught: npt.NDArray[np.bool_] = energy < barrier
    return caught


def _rk4(points: Array, steps: int) -> Array:
    x, v = points[:, 0].copy(), points[:, 1].copy()
    h = STEP
    for _ in range(steps):
        a1 = _acceleration(x, v)
        v2 = v + h / 2 * a1
        a2 = _acceleration(x + h / 2 * v, v2)
        v3 = v + h / 2 * a2
        a3 = _acceleration(x + h / 2 * v2, v3)
        v4 = v + h * a3
        a4 = _acceleration(x + h * v3, v4)
        x = x + h / 6 * (v + 2 * v2 + 2 * v3 + v4)
        v = v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
    return np.stack([x, v], axis=1)


def _acceleration(x: Array, v: Array) -> Array:
    slope = np.full_like(x, SLOPE.coef[-1])
    for coefficient in SLOPE.coef[-2::-1]:
        slope *= x
        slope += coefficient
    return -slope - DAMPING * v
