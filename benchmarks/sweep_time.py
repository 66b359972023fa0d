"""A sweep of one model over many solvers, against the same solves one after another through torchdiffeq.

python -m benchmarks.sweep_time [--rounds 5]
"""

import argparse
import statistics
from dataclasses import dataclass

import torch
import torchdiffeq
from torch import Tensor

from benchmarks.floors import MachineRates, field_cost, measure_rates
from benchmarks.interleaved import interleave, machine, stopwatch
from benchmarks.one_core import stay_on_one_core
from benchmarks.tables import Table, ratio_text, verdict
from ode_core.audit.sweep import sweep
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import Classifier, build_classifier
from ode_core.models.predictions import predict
from ode_core.specs import PRESETS, ConcentricSpheresSpec, MethodName, SolverSpec

TARGET = 1 / 4
METHODS: tuple[MethodName, ...] = ("euler", "midpoint", "rk4")


@dataclass(frozen=True)
class SweptModel:
    """The Sphere2 model with its initial weights, on the test samples and on a few of them, for which the solves of a
    method are stacked; ``steps`` are the powers of 2 from 1."""

    samples: int = 1000
    few: int = 100
    steps: int = 8

    @property
    def solvers(self) -> list[SolverSpec]:
        """Every method with every number of steps."""
        return [SolverSpec(method=method, steps=2**k) for method in METHODS for k in range(self.steps)]

    @property
    def evaluations(self) -> int:
        """Evaluations of the field for one sample, over all solvers."""
        return sum(solver.facts.evaluations(solver.fixed_steps()) for solver in self.solvers)


@torch.no_grad()
def through_torchdiffeq(model: Classifier, inputs: Tensor, labels: Tensor, solvers: list[SolverSpec]) -> list[float]:
    """Return the accuracy under each solver, one solve after another; rk4 is its 3/8 rule, as expensive as ours."""
    accuracies = []
    start = model.initial_state(inputs)
    interval = torch.tensor([0.0, model.end_time], device=start.device)
    for solver in solvers:
        options = {"step_size": model.end_time / solver.fixed_steps()}
        final = torchdiffeq.odeint(model.field, start, interval, method=solver.method, options=options)[-1]
        predicted = model.head(final).argmax(dim=1)
        accuracies.append(float((predicted == labels).double().mean()))
    return accuracies


def one_by_one(model: Classifier, inputs: Tensor, solvers: list[SolverSpec]) -> None:
    """Do the solves of a sweep without stacking them."""
    for solver in solvers:
        predict(model, inputs, solver)


def table(what: SweptModel, rounds: int, device: torch.device, rates: MachineRates) -> Table:
    """Measure and return table (e)."""
    dataset = ConcentricSpheresSpec(dimension=2, test_samples=what.samples)
    data = load_dataset(dataset, None)
    model = build_classifier(PRESETS["sphere2"], dataset).to(device)
    inputs, labels = data.test_inputs.to(device), data.test_labels.to(device)
    solvers = what.solvers
    ours = [result.accuracy for result in sweep(model, inputs, labels.cpu(), solvers[0], solvers)]
    peers = through_torchdiffeq(model, inputs, labels, solvers)
    apart = max(abs(a - b) for a, b in zip(ours, peers, strict=True))
    some, their_labels = inputs[: what.few], labels[: what.few]
    timed = interleave(
        {
            (what.samples, "odeness"): stopwatch(lambda: sweep(model, inputs, labels.cpu(), solvers[0], solvers)),
            (what.samples, "torchdiffeq"): stopwatch(lambda: through_torchdiffeq(model, inputs, labels, solvers)),
            (what.few, "odeness, stacked"): stopwatch(
                lambda: sweep(model, some, their_labels.cpu(), solvers[0], solvers)
            ),
            (what.few, "odeness, one by one"): stopwatch(lambda: one_by_one(model, some, solvers)),
            (what.few, "torchdiffeq"): stopwatch(lambda: through_torchdiffeq(model, some, their_labels, solvers)),
        },
        rounds=rounds,
        warm_up=1,
    )
    seconds = {name: statistics.median(values) for name, values in timed.items()}
    ratio = seconds[what.samples, "odeness"] / seconds[what.samples, "torchdiffeq"]
    cost = field_cost(PRESETS["sphere2"], (2,))
    work = what.samples * what.evaluations
    return Table(
        title="(e) A sweep",
        what=f"One Sphere2 model, {what.samples} samples, {', '.join(METHODS)} with {what.steps} step counts "
        f"(1 to {2 ** (what.steps - 1)}), {what.evaluations} evaluations a sample, float32, on {device}. Medians of "
        f"{rounds} interleaved rounds. The accuracies of the two are at most {apart:.2g} apart.",
        header=("samples", "", "sweep ms", "of torchdiffeq's"),
        rows=[
            [str(samples), name, f"{value * 1e3:.1f}", ratio_text(value / seconds[samples, "torchdiffeq"])]
            for (samples, name), value in seconds.items()
        ],
        below=[
            verdict(f"odeness / torchdiffeq, {what.samples} samples", ratio, TARGET),
            f"Floor: {rates.floors(work * cost.multiply_adds, 2 * 4 * work * cost.values)}; the bytes go at the speed "
            "of memory, and what stays in the cache is faster.",
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print(table(SweptModel(), arguments.rounds, arguments.device, measure_rates(arguments.device)).markdown())


if __name__ == "__main__":
    main()
