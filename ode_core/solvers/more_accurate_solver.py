"""The paper's test solvers: what a training solver on a fixed grid is held against.

Source: Ott, Katiyar, Hennig, Tiemann: ResNet After All: Neural ODEs and Their Numerical Solution, ICLR
2021, and the talk of 2022. Steps are relative to the length of the interval: 1 is a single step.
"""

import math

from ode_core.specs.methods import MethodName


def steps_for(step: float) -> int:
    """Return the integer number of steps of a relative step: the next larger one where 1/step is none."""
    exact = 1.0 / step
    nearest = round(exact)
    return nearest if abs(exact - nearest) <= 1e-9 * nearest else math.ceil(exact)


def more_accurate_solver(method: MethodName, step: float) -> tuple[MethodName, int]:
    """Return the paper's test solver for a training solver: one order up, and fine enough to tell.

    Raises:
        ValueError: the paper names none for the method.
    """
    if method == "euler":
        test_step = step if 1 / step > 50 else math.sqrt(step / 50)
        return "midpoint", steps_for(test_step)
    if method == "midpoint":
        test_step = step if 1 / step**2 > 50 else (step**2 / 50) ** 0.25
        return "rk4", steps_for(test_step)
    raise ValueError(f"the paper names no test solver for {method}")
