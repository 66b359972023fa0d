"""How the gradient of a solve is computed, with the facts a user chooses by."""

from dataclasses import dataclass
from typing import Literal, get_args

from ode_core.specs.methods import Family
from ode_core.specs.solver import SolverSpec

GradientMode = Literal["backprop", "checkpoint", "adjoint", "adjoint_seminorm", "reversible"]


@dataclass(frozen=True)
class GradientFacts:
    """What a user chooses a gradient mode by.

    Attributes:
        description: one line for people.
        memory: what is kept between the forward and the backward pass.
        exact: whether it is the gradient of the numbers that the solver returns, to round-off; otherwise it is
            that of the equation's solution, and has an error of the size of the tolerances or of the step.
        families: families of methods it works with.
        cost: of a training iteration, about, in evaluations of the field for each evaluation of the forward solve;
            the backward pass through an evaluation costs two.
    """

    description: str
    memory: str
    exact: bool
    families: tuple[Family, ...]
    cost: float


GRADIENTS: dict[GradientMode, GradientFacts] = {
    "backprop": GradientFacts(
        "automatic differentiation through every step",
        "the graph of all steps",
        True,
        ("explicit", "implicit", "multistep", "reversible"),
        3,
    ),
    "checkpoint": GradientFacts(
        "the same gradient; keeps the states and computes one step's graph at a time",
        "one state a step, and one step's graph",
        True,
        ("explicit",),
        4,
    ),
    "adjoint": GradientFacts(
        "the adjoint equation solved backwards, one step size for the whole batch and the parameters' gradient",
        "the end and the output times",
        False,
        ("explicit",),
        4,
    ),
    "adjoint_seminorm": GradientFacts(
        "the adjoint equation solved backwards, steps chosen for each sample, not for the parameters' gradient",
        "the end and the output times",
        False,
        ("explicit",),
        6,
    ),
    "reversible": GradientFacts(
        "the same gradient as backprop, from states computed backwards by a method that can do so",
        "the end",
        True,
        ("reversible",),
        4,
    ),
}

assert set(GRADIENTS) == set(get_args(GradientMode))


def check_gradient(mode: GradientMode, solver: SolverSpec) -> None:
    """Raise ``ValueError`` when the mode cannot be used with the solver; the message says what can."""
    families = GRADIENTS[mode].families
    if mode != "backprop" and solver.runs_on != "odeness":
        raise ValueError(
            f"gradient {mode} is not for {solver.method} on {solver.runs_on}: leave backend out, or use backprop"
        )
    if mode != "backprop" and solver.grid == "truncate":
        raise ValueError(f"gradient {mode} needs equal steps: use the uniform grid, or backprop")
    if solver.facts.family in families:
        return
    if families == ("reversible",):
        raise ValueError(
            f"gradient {mode} needs a method whose steps can be undone: use asynchronous_leapfrog instead of "
            f"{solver.method}, or gradient checkpoint, which saves memory with any explicit method"
        )
    usable = ", ".join(name for name, facts in GRADIENTS.items() if solver.facts.family in facts.families)
    raise ValueError(
        f"gradient {mode} does not know {solver.facts.family} methods; {solver.method} works with {usable}"
    )
