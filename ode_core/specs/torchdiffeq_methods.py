"""What torchdiffeq 0.2.5 offers under our names, for where torch is not loaded.

A test holds the table against the installed torchdiffeq.
"""

from dataclasses import dataclass
from typing import Literal

AdamsName = Literal["explicit_adams", "implicit_adams"]

# Orders that are reached. Below them torchdiffeq takes Runge-Kutta steps instead; above, the one step of order
# three with which explicit_adams grows its history keeps it at order four, and high orders diverge: their
# stability interval shrinks to nothing.
ADAMS_ORDERS: dict[AdamsName, tuple[int, ...]] = {"explicit_adams": (3, 4), "implicit_adams": (4, 5)}
DEFAULT_ADAMS_ORDER = 4


@dataclass(frozen=True)
class TorchdiffeqMethod:
    """How torchdiffeq runs a method.

    Attributes:
        name: its name there.
        evaluations_per_step: of an adaptive method, two more being spent at the start; None on a fixed grid.
    """

    name: str
    evaluations_per_step: int | None = None

    @property
    def adaptive(self) -> bool:
        """Whether it takes tolerances; it takes either them or a grid, never both."""
        return self.evaluations_per_step is not None


TORCHDIFFEQ_METHODS: dict[str, TorchdiffeqMethod] = {
    "euler": TorchdiffeqMethod("euler"),
    "midpoint": TorchdiffeqMethod("midpoint"),
    "heun": TorchdiffeqMethod("heun2"),
    "heun3": TorchdiffeqMethod("heun3"),
    "rk4_38": TorchdiffeqMethod("rk4"),
    "heun_euler": TorchdiffeqMethod("adaptive_heun", evaluations_per_step=1),
    "fehlberg2": TorchdiffeqMethod("fehlberg2", evaluations_per_step=2),
    "bosh3": TorchdiffeqMethod("bosh3", evaluations_per_step=3),
    "dopri5": TorchdiffeqMethod("dopri5", evaluations_per_step=6),
    "dopri8": TorchdiffeqMethod("dopri8", evaluations_per_step=13),
    "explicit_adams": TorchdiffeqMethod("explicit_adams"),
    "implicit_adams": TorchdiffeqMethod("implicit_adams"),
}
