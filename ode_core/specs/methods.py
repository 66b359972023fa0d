"""The solver methods by name, with the facts that are needed where torch is not loaded.

The coefficients live in ``ode_core.solvers.tableaus``; a test holds the two against each other.
"""

from dataclasses import dataclass
from typing import Literal, get_args

MethodName = Literal[
    "euler",
    "midpoint",
    "heun",
    "rk4",
    "rk4_38",
    "fehlberg2",
    "bosh3",
    "dopri5",
    "implicit_midpoint",
    "trapezoid",
    "kvaerno3",
]


# Numbers in a state up to which an implicit method computes dense Jacobians. One takes that many evaluations, which
# several iterations and steps share, and all in one pass. Iterative solves take fresh products in every iteration of
# every stage: nine times as many for a diffusion on 64 points. Beyond, the passes and factors become large.
DENSE_JACOBIAN = 64

# Evaluations Newton's iteration usually takes for a stage, Jacobians apart.
NEWTON_EVALUATIONS = 3

Family = Literal["explicit", "implicit", "multistep", "reversible"]
Backend = Literal["odeness", "torchdiffeq"]


@dataclass(frozen=True)
class MethodFacts:
    """What a user chooses a method by.

    Attributes:
        order: order of the solution that is propagated.
        stages: stages of the tableau.
        embedded_order: order of the embedded solution the error estimate compares with, or None.
        first_same_as_last: the last stage is the first of the next step, so that an accepted
            step costs one evaluation less.
        stability_limit: largest ``x`` such that the method is stable for ``z' = -lambda z`` with
            ``h * lambda`` in ``[0, x]`` (real axis), rounded to two decimals; None: for every ``x``, and everywhere
            in the left half plane (A-stable).
        description: one line for people.
        family: how it makes a step: explicit or implicit Runge-Kutta, linear multistep, or reversible leapfrog.
        backends: who can run it; the first does unless a solver names another.
    """

    order: int
    stages: int
    embedded_order: int | None
    first_same_as_last: bool
    stability_limit: float | None
    description: str
    family: Family = "explicit"
    backends: tuple[Backend, ...] = ("odeness",)

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its own error and so can choose its steps."""
        return self.embedded_order is not None

    def evaluations(self, steps: int, state_size: int = 0) -> int:
        """Return the evaluations of the field for one sample over ``steps`` fixed steps.

        A last stage that is the first of the next step counts there; after the last step nobody needs it.

        An implicit method iterates, and for it this is a usual number: three evaluations a stage (2.1 to 2.5 were
        measured with tolerances, 3.6 to 4.3 on grids), and for a state of ``state_size`` numbers a Jacobian, or as
        many products with one, every second step (one in a hundred steps to two a step). A solve's own bound on its
        evaluations holds whatever is usual.
        """
        stages = self.stages - 1 if self.first_same_as_last else self.stages
        if self.family != "implicit":
            return steps * stages
        return steps * stages * NEWTON_EVALUATIONS + steps * min(state_size, DENSE_JACOBIAN) // 2


METHODS: dict[MethodName, MethodFacts] = {
    "euler": MethodFacts(1, 1, None, False, 2.0, "Euler's method; one step with h = 1 is a ResNet block"),
    "midpoint": MethodFacts(2, 2, None, False, 2.0, "explicit midpoint rule"),
    "heun": MethodFacts(2, 2, None, False, 2.0, "Heun's method: explicit trapezoidal rule"),
    "rk4": MethodFacts(4, 4, None, False, 2.79, "the classical Runge-Kutta method"),
    "rk4_38": MethodFacts(4, 4, None, False, 2.79, "Kutta's 3/8 rule (what torchdiffeq calls rk4)"),
    "fehlberg2": MethodFacts(2, 3, 1, False, 2.01, "Fehlberg 2(1), adaptive"),
    "bosh3": MethodFacts(3, 4, 2, True, 2.51, "Bogacki-Shampine 3(2), adaptive"),
    "dopri5": MethodFacts(5, 7, 4, True, 3.31, "Dormand-Prince 5(4), adaptive"),
    "implicit_midpoint": MethodFacts(
        2, 1, None, False, None, "implicit midpoint rule: A-stable, keeps quadratic invariants", "implicit"
    ),
    "trapezoid": MethodFacts(
        2, 2, None, True, None, "implicit trapezoidal rule (Crank-Nicolson): A-stable", "implicit"
    ),
    "kvaerno3": MethodFacts(3, 4, 2, True, None, "Kvaerno 3(2), L-stable, adaptive: for stiff fields", "implicit"),
}

assert set(METHODS) == set(get_args(MethodName))
