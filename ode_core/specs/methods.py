"""The solver methods by name, with the facts that are needed where torch is not loaded.

The coefficients live in ``ode_core.solvers.explicit_methods``; a test holds the two against each other.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from ode_core.specs.torchdiffeq_methods import TORCHDIFFEQ_METHODS

MethodName = Literal[
    "euler",
    "midpoint",
    "heun",
    "ralston",
    "heun3",
    "rk4",
    "rk4_38",
    "heun_euler",
    "fehlberg2",
    "bosh3",
    "fehlberg45",
    "dopri5",
    "tsit5",
    "dopri8",
    "asynchronous_leapfrog",
    "explicit_adams",
    "implicit_adams",
    "implicit_midpoint",
    "trapezoid",
    "kvaerno3",
]

# Numbers in a state up to which an implicit method computes dense Jacobians. One takes that many evaluations, which
# several iterations and steps share, and all in one pass. Iterative solves take fresh products in every iteration of
# every stage: nine to twenty times as many for a diffusion on 128 points, and they stagnate where rates are spread
# over many orders. Beyond, the passes and factors become large: a factor of this size takes 256 KiB in float32.
DENSE_JACOBIAN = 256

# Evaluations Newton's iteration usually takes for a stage, Jacobians apart.
NEWTON_EVALUATIONS = 3

Family = Literal["explicit", "implicit", "multistep", "reversible"]
Backend = Literal["odeness", "torchdiffeq"]


@dataclass(frozen=True)
class MethodFacts:
    """What a user chooses a method by.

    Attributes:
        order: order of the solution that is propagated.
        stages: stages of the tableau; of a multistep method the evaluations of one step, at most.
        embedded_order: order of the embedded solution the error estimate compares with, or None.
        first_same_as_last: the last stage is the first of the next step, so that an accepted
            step costs one evaluation less.
        stability_limit: largest ``x`` such that the method is stable for ``z' = -lambda z`` with
            ``h * lambda`` in ``[0, x]`` (real axis), rounded to two decimals; None where there is no limit.
        description: one line for people.
        family: how it makes a step: explicit or implicit Runge-Kutta, linear multistep, or reversible leapfrog.
        backends: who can run it; the first does unless a solver names another.
        dense_output_order: order of the interpolant within a step, whose error is of one order more; 3 is the cubic
            Hermite interpolant of both ends.
        fixed_grid: whether it can take a given number of equal steps.
        starting_steps: steps that a multistep method begins with, Runge-Kutta steps of four evaluations.
    """

    order: int
    stages: int
    embedded_order: int | None
    first_same_as_last: bool
    stability_limit: float | None
    description: str
    family: Family = "explicit"
    backends: tuple[Backend, ...] = ("odeness",)
    dense_output_order: int = 3
    fixed_grid: bool = True
    starting_steps: int = 0

    @property
    def adaptive(self) -> bool:
        """Whether the method estimates its own error and so can choose its steps."""
        return self.embedded_order is not None

    def evaluations(self, steps: int, state_size: int = 0) -> int:
        """Return the evaluations of the field for one sample over ``steps`` fixed steps.

        A last stage that is the first of the next step counts there; after the last step nobody needs it. A
        reversible method needs the slope at the start, too. For ``implicit_adams`` it is an upper bound: its
        iteration may end early.

        An implicit Runge-Kutta method iterates, and for it this is a usual number: three evaluations a stage (2.1 to
        2.5 were measured with tolerances, 3.6 to 4.3 on grids), and for a state of ``state_size`` numbers a Jacobian,
        or as many products with one, every second step (one in a hundred steps to two a step). A solve's own bound
        on its evaluations holds whatever is usual.
        """
        stages = self.stages - 1 if self.first_same_as_last else self.stages
        if self.family == "reversible":
            return steps * self.stages + 1
        if self.family == "implicit":
            return steps * stages * NEWTON_EVALUATIONS + steps * min(state_size, DENSE_JACOBIAN) // 2
        started = min(steps, self.starting_steps)
        return 4 * started + (steps - started) * stages


METHODS: dict[MethodName, MethodFacts] = {
    "euler": MethodFacts(1, 1, None, False, 2.0, "Euler's method; one step with h = 1 is a ResNet block"),
    "midpoint": MethodFacts(2, 2, None, False, 2.0, "explicit midpoint rule"),
    "heun": MethodFacts(2, 2, None, False, 2.0, "Heun's method: explicit trapezoidal rule"),
    "ralston": MethodFacts(2, 2, None, False, 2.0, "Ralston's method: smallest error bound of order 2"),
    "heun3": MethodFacts(3, 3, None, False, 2.51, "Heun's method of order 3"),
    "rk4": MethodFacts(4, 4, None, False, 2.79, "the classical Runge-Kutta method"),
    "rk4_38": MethodFacts(4, 4, None, False, 2.79, "Kutta's 3/8 rule (what torchdiffeq calls rk4)"),
    "heun_euler": MethodFacts(2, 2, 1, False, 2.0, "Heun's method with Euler's embedded, 2(1), adaptive"),
    "fehlberg2": MethodFacts(2, 3, 1, False, 2.01, "Fehlberg 2(1), adaptive"),
    "bosh3": MethodFacts(3, 4, 2, True, 2.51, "Bogacki-Shampine 3(2), adaptive"),
    "fehlberg45": MethodFacts(4, 6, 5, False, 3.02, "Fehlberg 4(5), adaptive; propagates order 4"),
    "dopri5": MethodFacts(5, 7, 4, True, 3.31, "Dormand-Prince 5(4), adaptive", dense_output_order=4),
    "tsit5": MethodFacts(5, 7, 4, True, 3.51, "Tsitouras 5(4), adaptive", dense_output_order=4),
    "dopri8": MethodFacts(
        8, 13, 5, True, 6.39, "Dormand-Prince 8(5,3) (DOP853), adaptive, for tight tolerances", dense_output_order=7
    ),
    "asynchronous_leapfrog": MethodFacts(
        2, 1, None, False, 0.0, "asynchronous leapfrog: its steps can be undone; for short intervals", "reversible"
    ),
    "explicit_adams": MethodFacts(
        4,
        1,
        None,
        False,
        0.3,
        "Adams-Bashforth of four steps",
        family="multistep",
        backends=("torchdiffeq",),
        starting_steps=2,
    ),
    "implicit_adams": MethodFacts(
        4,
        5,
        None,
        False,
        1.6,
        "Adams-Moulton of three steps, solved by up to four corrections",
        family="multistep",
        backends=("torchdiffeq",),
        starting_steps=2,
    ),
    "implicit_midpoint": MethodFacts(
        2, 1, None, False, None, "implicit midpoint rule: A-stable, keeps quadratic invariants", "implicit"
    ),
    "trapezoid": MethodFacts(2, 2, None, True, None, "implicit trapezoidal rule: A-stable", "implicit"),
    "kvaerno3": MethodFacts(3, 4, 2, True, None, "Kvaerno 3(2), L-stable, adaptive: for stiff fields", "implicit"),
}

# What torchdiffeq offers too, it can run.
METHODS |= {
    name: replace(facts, backends=(*facts.backends, "torchdiffeq"))
    for name, facts in METHODS.items()
    if name in TORCHDIFFEQ_METHODS and "torchdiffeq" not in facts.backends
}

assert set(METHODS) == set(get_args(MethodName))
