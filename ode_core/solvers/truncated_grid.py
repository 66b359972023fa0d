"""The grid that torchdiffeq makes for its option ``step_size``, to compare results to round-off.

Its times are ``t0 + h k`` in the precision of the state, the last of them moved to ``t1``. Where ``h`` divides the
interval only to round-off there may be one more step, about a rounding error long, forwards or backwards.
"""

import torch
from torch import Tensor

from ode_core.specs.solver import Precision


def precision_of(dtype: torch.dtype) -> Precision:
    """Return the name specs have for a state's type."""
    return "float64" if dtype == torch.float64 else "float32"


def truncated_grid(step_size: float, steps: int, t0: float, t1: float, dtype: torch.dtype) -> Tensor:
    """Return the ``steps + 1`` times of the grid, ``(steps + 1,)`` in ``dtype``, on the CPU.

    Args:
        step_size: length of all steps but the last.
        steps: ``SolverSpec.fixed_steps`` of the same interval and precision.
        t0: start time.
        t1: end time, before or after ``t0``.
        dtype: the state's type.

    Raises:
        ValueError: the interval has no length in ``dtype``.
    """
    direction = 1.0 if t1 >= t0 else -1.0
    # Time runs backwards as the negative of a time that runs forwards, so that the rounding is torchdiffeq's.
    start, end = torch.tensor([direction * t0, direction * t1], dtype=dtype).unbind()
    if bool(start == end):
        raise ValueError(f"{t0!r} and {t1!r} are one number in {dtype}: compute in float64, or leave grid out")
    times = torch.arange(steps + 1, dtype=dtype) * step_size + start
    times[-1] = end
    return direction * times
