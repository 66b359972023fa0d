"""The 25 non-stiff initial value problems of DETEST, each on [0, 20].

Source: Hull, Enright, Fellen, Sedgwick, Comparing Numerical Methods for Ordinary Differential Equations, SIAM Journal
on Numerical Analysis 9 (1972). Fields take ``t`` ``(batch, 1)`` and ``z`` ``(batch, dimension)``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq
from scipy.special import ellipj
from torch import Tensor

END = 20.0


@dataclass(frozen=True)
class Problem:
    """A problem of the set; ``exact`` gives the state at the end where it is known in closed form."""

    name: str
    start: tuple[float, ...]
    field: Callable[[Tensor, Tensor], Tensor]
    exact: Callable[[], np.ndarray | list[float]] | None = None

    @property
    def dimension(self) -> int:
        return len(self.start)


@cache
def reference(problem: Problem) -> np.ndarray:
    """The state at the end by SciPy's DOP853 with ``rtol = atol = 1e-12``."""

    def field(t: float, z: np.ndarray) -> np.ndarray:
        return problem.field(torch.tensor([[t]], dtype=torch.float64), torch.from_numpy(z)[None])[0].numpy()

    solution = solve_ivp(field, (0.0, END), problem.start, method="DOP853", rtol=1e-12, atol=1e-12)
    return solution.y[:, -1]


def spiral(t: Tensor, z: Tensor) -> Tensor:
    return (z - t) / (z + t)


def spiral_at_end() -> list[float]:
    """The logarithmic spiral: ``log(r) + angle`` stays ``log(4) + pi / 2``."""

    def off(z: float) -> float:
        return math.log(math.hypot(END, z)) + math.atan2(z, END) - math.log(4) - math.pi / 2

    return [float(brentq(off, -END, END, xtol=1e-14))]


def conflicting_populations(t: Tensor, z: Tensor) -> Tensor:
    x, y = z.unbind(1)
    return torch.stack([2 * (x - x * y), -(y - x * y)], dim=1)


def chemical_reaction(t: Tensor, z: Tensor) -> Tensor:
    x, y, _ = z.unbind(1)
    return torch.stack([-x, x - y * y, y * y], dim=1)


def torus(t: Tensor, z: Tensor) -> Tensor:
    x, y, w = z.unbind(1)
    radius = torch.sqrt(x * x + y * y)
    return torch.stack([-y - x * w / radius, x - y * w / radius, x / radius], dim=1)


def rigid_body(t: Tensor, z: Tensor) -> Tensor:
    x, y, w = z.unbind(1)
    return torch.stack([y * w, -x * w, -0.51 * x * y], dim=1)


def linear(name: str, matrix: np.ndarray, start: tuple[float, ...]) -> Problem:
    transposed = torch.from_numpy(matrix.T.copy())

    def field(t: Tensor, z: Tensor) -> Tensor:
        return z @ transposed.to(z.dtype)

    return Problem(name, start, field, lambda: expm(END * matrix) @ np.array(start))


def decay_chain(rates: list[float]) -> np.ndarray:
    """Each substance decays into the next; the last one stays."""
    return np.diag([-rate for rate in rates] + [0.0]) + np.diag(rates, -1)


def heat(cells: int) -> np.ndarray:
    return -2 * np.eye(cells) + np.eye(cells, k=1) + np.eye(cells, k=-1)


def unit(dimension: int) -> tuple[float, ...]:
    return (1.0,) + (0.0,) * (dimension - 1)


# The five outer planets: masses in units of the sun's, with that of the inner planets counted to the sun.
GRAVITY = 2.95912208286
SUN = 1.00000597682
PLANETS = [0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778]
POSITIONS = [
    [3.42947415189, 3.35386959711, 1.35494901715],
    [6.64145542550, 5.97156957878, 2.18231499728],
    [11.2630437207, 14.6952576794, 6.27960525067],
    [-30.1552268759, 1.65699966404, 1.43785752721],
    [-21.1238353380, 28.4465098142, 15.3882659679],
]
VELOCITIES = [
    [-0.557160570446, 0.505696783289, 0.230578543901],
    [-0.415570776342, 0.365682722812, 0.169143213293],
    [-0.325325669158, 0.189706021964, 0.0877265322780],
    [-0.0240476254170, -0.287659532608, -0.117219543175],
    [-0.176860753121, -0.216393453025, -0.0148647893090],
]


def five_bodies(t: Tensor, z: Tensor) -> Tensor:
    """Positions ``(5, 3)`` and then velocities, relative to the sun."""
    position, velocity = z.reshape(-1, 2, 5, 3).unbind(1)
    masses = torch.tensor(PLANETS, dtype=z.dtype)[:, None]
    pull = position / position.norm(dim=2, keepdim=True) ** 3  # (batch, 5, 3), of each on the sun
    between = position[:, None, :, :] - position[:, :, None, :]  # [:, j, k]: from j to k
    distance = between.square().sum(dim=3, keepdim=True) + torch.eye(5, dtype=z.dtype)[:, :, None]
    others = (masses * (between / distance**1.5)).sum(dim=2)
    indirect = (masses * pull).sum(dim=1, keepdim=True) - masses * pull
    acceleration = GRAVITY * (-(SUN + masses) * pull + others - indirect)
    return torch.stack([velocity, acceleration], dim=1).reshape(z.shape)


def orbit(t: Tensor, z: Tensor) -> Tensor:
    x, y, u, v = z.unbind(1)
    cubed = (x * x + y * y) ** 1.5
    return torch.stack([u, v, -x / cubed, -y / cubed], dim=1)


def kepler(name: str, eccentricity: float) -> Problem:
    e = eccentricity

    def exact() -> list[float]:
        anomaly = brentq(lambda u: u - e * math.sin(u) - END, END - 1, END + 1, xtol=1e-14)
        sine, cosine, minor = math.sin(anomaly), math.cos(anomaly), math.sqrt(1 - e * e)
        pace = 1 / (1 - e * cosine)
        return [cosine - e, minor * sine, -pace * sine, pace * minor * cosine]

    return Problem(name, (1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))), orbit, exact)


def bessel(t: Tensor, z: Tensor) -> Tensor:
    x, y = z.unbind(1)
    s = t[:, 0] + 1
    return torch.stack([y, -(y / s + (1 - 0.25 / (s * s)) * x)], dim=1)


def bessel_at_end() -> list[float]:
    """``sqrt(2 / (pi s)) sin(s)`` at ``s = 21``, the Bessel function of order 1/2, and its derivative."""
    s = END + 1
    scale = math.sqrt(2 / (math.pi * s))
    return [scale * math.sin(s), scale * (math.cos(s) - math.sin(s) / (2 * s))]


def van_der_pol(t: Tensor, z: Tensor) -> Tensor:
    x, y = z.unbind(1)
    return torch.stack([y, (1 - x * x) * y - x], dim=1)


def duffing(t: Tensor, z: Tensor) -> Tensor:
    x, y = z.unbind(1)
    return torch.stack([y, x**3 / 6 - x + 2 * torch.sin(2.78535 * t[:, 0])], dim=1)


def falling_body(t: Tensor, z: Tensor) -> Tensor:
    _, y = z.unbind(1)
    return torch.stack([y, 0.032 - 0.4 * y * y], dim=1)


def falling_body_at_end() -> list[float]:
    speed = math.sqrt(0.032 / 0.4)
    return [30 + math.log(math.cosh(0.4 * speed * END)) / 0.4, speed * math.tanh(0.4 * speed * END)]


def pursuit(t: Tensor, z: Tensor) -> Tensor:
    _, y = z.unbind(1)
    return torch.stack([y, torch.sqrt(1 + y * y) / (25 - t[:, 0])], dim=1)


def pursuit_at_end() -> list[float]:
    rest = 1 - END / 25
    return [-12.5 * math.log(rest) - (END - END**2 / 50) / 2, (1 / rest - rest) / 2]


PROBLEMS = (
    Problem("A1", (1.0,), lambda t, z: -z, lambda: [math.exp(-END)]),
    Problem("A2", (1.0,), lambda t, z: -(z**3) / 2, lambda: [1 / math.sqrt(END + 1)]),
    Problem("A3", (1.0,), lambda t, z: z * torch.cos(t), lambda: [math.exp(math.sin(END))]),
    Problem("A4", (1.0,), lambda t, z: z / 4 * (1 - z / 20), lambda: [20 / (1 + 19 * math.exp(-END / 4))]),
    Problem("A5", (4.0,), spiral, spiral_at_end),
    Problem("B1", (1.0, 3.0), conflicting_populations),
    linear("B2", np.array([[-1.0, 1.0, 0.0], [1.0, -2.0, 1.0], [0.0, 1.0, -1.0]]), (2.0, 0.0, 1.0)),
    Problem("B3", (1.0, 0.0, 0.0), chemical_reaction),
    Problem("B4", (3.0, 0.0, 0.0), torus),
    Problem("B5", (0.0, 1.0, 1.0), rigid_body, lambda: list(ellipj(END, 0.51)[:3])),
    linear("C1", decay_chain([1.0] * 9), unit(10)),
    linear("C2", decay_chain([float(rate) for rate in range(1, 10)]), unit(10)),
    linear("C3", heat(10), unit(10)),
    linear("C4", heat(51), unit(51)),
    Problem("C5", tuple(np.ravel([POSITIONS, VELOCITIES]).tolist()), five_bodies),
    *(kepler(f"D{i}", eccentricity) for i, eccentricity in enumerate((0.1, 0.3, 0.5, 0.7, 0.9), start=1)),
    Problem("E1", (0.671396707141803, 0.0954005144474744), bessel, bessel_at_end),
    Problem("E2", (2.0, 0.0), van_der_pol),
    Problem("E3", (0.0, 0.0), duffing),
    Problem("E4", (30.0, 0.0), falling_body, falling_body_at_end),
    Problem("E5", (0.0, 0.0), pursuit, pursuit_at_end),
)
