"""What the solver adds to the time of its field, where the field is large: the paper's CIFAR-10 model.

python -m benchmarks.image_field [--rounds 3]
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.floors import MachineRates, field_cost, measure_rates
from benchmarks.interleaved import interleave, machine, stopwatch
from benchmarks.one_core import stay_on_one_core
from benchmarks.tables import Table, verdict
from ode_core.datasets.load import Dataset
from ode_core.solvers.solve import solve
from ode_core.specs import PRESETS, Cifar10Spec, ClassifierSpec, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun

FORWARD, TRAINING = 1.05, 1.1  # targets: time over (evaluations x the field's own time)


@dataclass(frozen=True)
class ImageSolve:
    """A batch of images of random noise, whose values do not matter for the time, and a solver."""

    model: ClassifierSpec = PRESETS["cifar10"]
    batch: int = 64
    steps: int = 8

    @property
    def solver(self) -> SolverSpec:
        """rk4 with so many steps."""
        return SolverSpec(method="rk4", steps=self.steps)

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in one solve."""
        return self.solver.facts.evaluations(self.steps)

    def training_run(self, device: torch.device) -> TrainingRun:
        """Return a training run on as many images as one batch has."""
        images = torch.randint(0, 256, (self.batch, *Cifar10Spec().input_shape), dtype=torch.uint8)
        labels = torch.arange(self.batch) % Cifar10Spec.classes
        spec = TrainingJobSpec(
            name="cifar10",
            dataset=Cifar10Spec(),
            model=self.model,
            solver=self.solver,
            training=TrainingSpec(iterations=1_000_000, batch_size=self.batch, learning_rate=1e-5),
        )
        return TrainingRun(spec, Dataset(images, labels, images, labels), device)


def table(what: ImageSolve, rounds: int, device: torch.device, rates: MachineRates) -> Table:
    """Measure and return table (c)."""
    run = what.training_run(device)
    start = run.model.initial_state(run.dataset.train_inputs.to(device)).detach()
    field, evaluations = run.model.field, what.evaluations
    forward = _over_field(
        lambda: _solve(run, start, what.solver), lambda: _evaluate(field, start, evaluations), rounds, evaluations
    )
    training = _over_field(run.advance, lambda: _backpropagate(field, start, evaluations), rounds, evaluations)
    cost = field_cost(what.model, Cifar10Spec().input_shape)
    macs, moved = what.batch * evaluations * cost.multiply_adds, 4 * what.batch * evaluations * cost.values
    return Table(
        title="(c) A large field",
        what=f"CIFAR-10 preset, batch {what.batch}, {what.solver.label} ({evaluations} evaluations), float32, "
        f"on {device}; {rounds} interleaved rounds, each {evaluations} evaluations of the field alone and one solve or "
        "training iteration. Ratios are medians of the rounds' ratios.",
        header=("", "seconds", "field alone, ms an evaluation", "time / (evaluations x field alone)"),
        rows=[
            ["forward", *forward.cells()],
            ["training iteration", *training.cells()],
        ],
        below=[
            verdict("forward / field alone", forward.ratio, FORWARD),
            verdict("training iteration / forward and backward of the field alone", training.ratio, TRAINING),
            f"Floor of forward: {rates.floors(macs, 2 * moved)}.",
            f"Floor of the training iteration: {rates.floors(3 * macs, 5 * moved)}.",
        ],
    )


@dataclass(frozen=True)
class _OverField:
    seconds: float
    evaluation: float
    ratio: float

    def cells(self) -> list[str]:
        return [f"{self.seconds:.3f}", f"{self.evaluation * 1e3:.2f}", f"{self.ratio:.3f}"]


def _over_field(
    whole: Callable[[], object], evaluations_alone: Callable[[], object], rounds: int, evaluations: int
) -> _OverField:
    seconds = interleave({"whole": stopwatch(whole), "alone": stopwatch(evaluations_alone)}, rounds=rounds, warm_up=1)
    ratios = [w / a for w, a in zip(seconds["whole"], seconds["alone"], strict=True)]
    return _OverField(
        seconds=statistics.median(seconds["whole"]),
        evaluation=statistics.median(seconds["alone"]) / evaluations,
        ratio=statistics.median(ratios),
    )


@torch.no_grad()
def _solve(run: TrainingRun, start: Tensor, solver: SolverSpec) -> None:
    solve(run.model.field.for_states(run.model.state_shape), start, solver, t1=run.model.end_time)


@torch.no_grad()
def _evaluate(field: torch.nn.Module, start: Tensor, evaluations: int) -> None:
    t = start.new_zeros(())
    for _ in range(evaluations):
        field(t, start)


def _backpropagate(field: torch.nn.Module, start: Tensor, evaluations: int) -> None:
    t, z = start.new_zeros(()), start.clone().requires_grad_()
    for _ in range(evaluations):
        field.zero_grad(set_to_none=True)
        z.grad = None
        slope = field(t, z)
        slope.backward(start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print(table(ImageSolve(), arguments.rounds, arguments.device, measure_rates(arguments.device)).markdown())


if __name__ == "__main__":
    main()
