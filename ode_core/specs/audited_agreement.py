"""What may be asked of a solver that an audit is to choose."""

from typing import Literal

Evidence = Literal["estimate", "lower_bound"]
"""What has to reach the asked agreement: the share of the samples, or the lower end of its 95 % interval."""

By = Literal["evaluations", "time"]
"""What is to be the least: the evaluations of the field, or the measured time."""

Otherwise = Literal["refuse", "training_solver"]
"""What to do where no audit has compared solvers, or none of them is good enough."""
