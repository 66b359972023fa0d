"""Why a model depends on its solver: crossing steps or the sum of small errors, when along the way, in which samples.

For every Runge-Kutta method: on its grid, and with tolerances on the accepted steps of each sample, frozen.
All in float64, so the predictions are those of the steps and not of round-off.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ode_core.audit import error_transport
from ode_core.audit.cause import cause, cause_in_words
from ode_core.audit.crossing_map import crossing_map
from ode_core.audit.error_transport import ErrorTransport, MarginAttribution, margin_attribution
from ode_core.audit.fan_quantiles import fan_quantiles
from ode_core.audit.interventions import InterventionalSplit, interventional_split, labels_of
from ode_core.audit.step_grid import StepGrid, fixed_grid, frozen_grid, numerical_path
from ode_core.audit.step_spectrum import SpectrumMethod, StepSpectrum, step_spectrum
from ode_core.models.audited_model import AuditedModel
from ode_core.solvers.step_map import KNOWN_FAMILIES, step_map
from ode_core.specs.solver import SolverSpec

STRETCHES = 16

OnPart = Callable[[str], None]
"""Called before each part with its name; an exception it raises ends the analysis."""


@dataclass(frozen=True)
class Mechanism:
    """What was found for ``n`` samples whose training solve succeeded.

    Attributes:
        samples: ``(n,)``, their numbers among those given.
        grid: the steps of the training solver.
        states: ``(steps + 1, n, *state)``, its solution.
        spectrum: which steps no flow can make.
        split: what replacing them, or the others, by the exact flow does to the predictions.
        transport: each step's contribution to the end, or None where it was not asked for.
        margins: each step's contribution to the margin, or None likewise.
    """

    samples: Tensor
    grid: StepGrid
    states: Tensor
    spectrum: StepSpectrum
    split: InterventionalSplit
    transport: ErrorTransport | None
    margins: MarginAttribution | None

    @property
    def turning_times(self) -> Tensor:
        """``(turned,)``, for each sample whose prediction changes: the end of the stretch that turned it for good.

        Samples whose errors were not carried to the end accurately are left out.
        """
        if self.transport is None or self.margins is None:
            return torch.empty(0, dtype=torch.float64)
        sample = torch.nonzero((self.margins.turning >= 0) & self.transport.converged.cpu()).flatten()
        bounds = torch.tensor(self.transport.bounds)
        return self.grid.ends[bounds[self.margins.turning[sample] + 1] - 1, sample]

    @property
    def turning_time_by_sample(self) -> dict[int, float]:
        """The same by the sample's number among those given."""
        if self.transport is None or self.margins is None:
            return {}
        turned = (self.margins.turning >= 0) & self.transport.converged.cpu()
        return dict(zip(self.samples[turned].tolist(), self.turning_times.tolist(), strict=True))

    @property
    def sentence(self) -> str:
        """The cause in words, and when along the way it acts."""
        words = cause_in_words(self.split, self.spectrum.flagged_share, self.spectrum.undecided_share)
        times = _quantiles(self.turning_times)
        end = float(self.grid.ends[-1].max())
        if times is None or float(self.turning_times.min()) >= end:  # all in the last step, which says nothing
            return words
        return f"{words} Half of the predictions that change are turned by time {times['median']:.3g} of {end:.3g}."

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON values; all numbers are finite or None."""
        spectrum, transport = self.spectrum, self.transport
        return {
            "cause": cause(self.split),
            "sentence": self.sentence,
            "samples": len(self.samples),
            "steps": self.grid.steps,
            "when": {
                "end_time": float(self.grid.ends[-1].max()),
                "turned": _quantiles(self.turning_times),
                "flagged": _quantiles(self.grid.starts[spectrum.flagged]),
            },
            "crossing": {
                "method": spectrum.method,
                "flagged_share": spectrum.flagged_share,
                "certified_share": spectrum.certified_share if spectrum.method == "dense" else None,
                "paired_share": spectrum.paired_share if spectrum.method == "dense" else None,
                "undecided_share": spectrum.undecided_share,
                "samples_with_a_flag": int(spectrum.flagged.any(dim=0).sum()),
                "map": crossing_map(spectrum, self.grid).to_json(),
            },
            "split": self.split.to_json(),
            "transport": None
            if transport is None or self.margins is None
            else {
                "step_bounds": transport.bounds,
                "converged": int(transport.converged.sum()),
                "largest_residual": float(transport.residual().nan_to_num(0.0).max()),
                "margin": self.margins.to_json(),
                "fan": fan_quantiles(transport, self.margins, self.grid).to_json(),
            },
        }


def _quantiles(times: Tensor) -> dict[str, float] | None:
    if len(times) == 0:
        return None
    # Times that there are, and none in between. torch takes at most 2^24 numbers.
    found = np.quantile(times.numpy(), (0.1, 0.5, 0.9), method="inverted_cdf").tolist()
    return dict(zip(("p10", "median", "p90"), found, strict=True))


def obstacle(train_solver: SolverSpec) -> str | None:
    """Return why the steps of a solver cannot be taken apart, or None."""
    if train_solver.runs_on != "odeness":
        return f"{train_solver.label} makes its steps elsewhere: only steps of our own can be taken apart"
    if train_solver.facts.family not in KNOWN_FAMILIES:
        return f"only the steps of Runge-Kutta methods can be taken apart, not those of {train_solver.method}"
    return None


def find_mechanism(
    model: AuditedModel,
    inputs: Tensor,
    labels: Tensor,
    train_solver: SolverSpec,
    reference: Tensor,
    *,
    end_accuracy: float = error_transport.ACCURACY,
    spectrum: SpectrumMethod | None = None,
    stretches: int | None = STRETCHES,
    on_part: OnPart | None = None,
    on_evaluation: Callable[[], None] | None = None,
    max_evaluations: int | None = None,
) -> Mechanism:
    """Tell crossing steps and accumulated errors apart.

    Args:
        model: the classifier; it is copied to float64.
        inputs: ``(n, *sample_shape)``.
        labels: ``(n,)``, the right classes.
        train_solver: what the model was trained with.
        reference: ``(n,)``, the classes that a converged solver predicts.
        end_accuracy: of the exact flow to the end.
        spectrum: full Jacobians or Arnoldi's iteration; None goes by the size of the state.
        stretches: parts of the grid whose errors are carried to the end; None: each step, 0: none.
        on_part: called before each part.
        on_evaluation: called before each evaluation of the field; an exception it raises ends the analysis.
        max_evaluations: bound on the evaluations of the field for one sample in one flow, or None.

    Raises:
        ValueError: the training solver does not make Runge-Kutta steps of our own, or no sample's solve succeeds.
    """
    report = on_part or (lambda name: None)
    exact = copy.deepcopy(model).double()
    exact.field.before_evaluation = on_evaluation
    psi = step_map(exact.field.for_states(exact.state_shape), train_solver.method)
    if train_solver.runs_on != "odeness":
        raise ValueError(f"{train_solver.label} makes its steps elsewhere: leave the backend out")
    report("steps of the training solver")
    with torch.no_grad():
        z0 = exact.initial_state(inputs.to(exact.device))
        grid = training_grid(model, inputs, train_solver)
        states = numerical_path(psi, grid, z0)
    # A grid with ``truncate`` has its times in the type of the states.
    end = torch.tensor(model.end_time, dtype=model.dtype)
    arrived = torch.isfinite(states[-1].flatten(1)).all(dim=1).cpu() & (grid.arrives.to(end.dtype) == end)
    samples = torch.nonzero(arrived).flatten()
    if len(samples) == 0:
        raise ValueError("no sample's training solve succeeds: there is nothing to take apart")
    grid = grid.select(samples).without_idle_end()
    states = states[: grid.steps + 1, samples.to(states.device)]
    report("derivatives of the steps")
    found = step_spectrum(psi, grid, states, method=spectrum)
    report("interventions")
    with torch.no_grad():
        trained = labels_of(exact.head(states[-1]).cpu())
    split = interventional_split(
        psi,
        grid,
        states[0],
        found.flagged,
        exact.head,
        labels[samples].cpu(),
        trained,
        reference[samples].cpu(),
        max_evaluations=max_evaluations,
    )
    transport = margins = None
    if stretches != 0:
        report("transport of the errors")
        transport = error_transport.error_transport(
            psi.field, grid, states, stretches=stretches, accuracy=end_accuracy, max_evaluations=max_evaluations
        )
        margins = margin_attribution(transport, exact.head, reference[samples])
    return Mechanism(samples, grid, states, found, split, transport, margins)


def training_grid(model: AuditedModel, inputs: Tensor, train_solver: SolverSpec) -> StepGrid:
    """Return the steps that the training solver makes with the model as it is."""
    if not train_solver.adaptive:
        return fixed_grid(train_solver, len(inputs), model.end_time, model.dtype)
    with torch.no_grad(), model.float32_products():
        z0 = model.initial_state(inputs.to(model.device))
        return frozen_grid(model.field.for_states(model.state_shape), z0, train_solver, model.end_time)[0]
