"""Differential equations with known or independently computed solutions, and fields that watch how they are called."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

ADAPTIVE = ("heun_euler", "fehlberg2", "bosh3", "fehlberg45", "dopri5", "tsit5", "dopri8")


def accuracy(method: str, tolerance: float) -> float:
    """What a solve with ``rtol = atol = tolerance`` may be off by, for states and derivatives of about 1.

    The local errors add up to a few tolerances. fehlberg2 estimates ``h^2 z'' / 512``, so it takes steps of
    ``h = sqrt(512 tolerance)``, and the error of a method of order 2 is about ``h^2``: 512 tolerances. fehlberg45
    goes on from the lower order, whose error a step is all that the tolerance lets pass: 20 steps of it, and what
    the equation makes of them. dopri8 takes steps of half the interval, over which no expansion in ``h`` holds.
    """
    return tolerance * {"fehlberg2": 5120, "fehlberg45": 50, "dopri8": 20}.get(method, 10)


def coupled(t: Tensor, z: Tensor) -> Tensor:
    """A non-linear, non-autonomous system of two for ``(batch, 2)``: an autonomous or linear one hides errors."""
    x, y = z[:, :1], z[:, 1:]
    return torch.cat([torch.sin(3 * t) - x * y, torch.cos(t) * x * x - y], dim=1)


def coupled_solution(t0: float, t1: float, start: tuple[float, float]) -> Tensor:
    """The end of ``coupled`` by SciPy's DOP853, to about 1e-13."""

    def f(t: float, z: np.ndarray) -> list[float]:
        return [np.sin(3 * t) - z[0] * z[1], np.cos(t) * z[0] ** 2 - z[1]]

    solution = solve_ivp(f, (t0, t1), start, method="DOP853", rtol=1e-13, atol=1e-14)
    return torch.from_numpy(solution.y[:, -1])


def bernoulli(t: Tensor, z: Tensor) -> Tensor:
    """``z' = -2 t z^2``. Only additions and products, which are rounded alike wherever they stand in a batch."""
    return -2 * t * z * z


def bernoulli_solution(t: Tensor | float, z0: Tensor) -> Tensor:
    """Solution of ``bernoulli`` from ``z(0) = z0``."""
    return 1 / (1 / z0 + t * t)


class Watched:
    """A field that records every time it is asked for, and raises outside its interval."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor], t0: float, t1: float) -> None:
        self.field, self.low, self.high = field, min(t0, t1), max(t0, t1)
        self.calls: list[Tensor] = []

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        if bool(((t < self.low) | (t > self.high)).any()):
            raise AssertionError(f"asked at {t} outside [{self.low}, {self.high}]")
        self.calls.append(t)
        return self.field(t, z)
