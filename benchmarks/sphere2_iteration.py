"""One training iteration of the paper's Sphere2 model: our solver loop against torchdiffeq's.

python -m benchmarks.sphere2_iteration [--rounds 30]
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchdiffeq
from torch.nn.functional import cross_entropy

from benchmarks.floors import MachineRates, field_cost, measure_rates
from benchmarks.interleaved import machine, measure_interleaved
from benchmarks.one_core import stay_on_one_core
from benchmarks.tables import Table, ratio_text, verdict
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import build_model
from ode_core.specs import PRESETS, ConcentricSpheresSpec, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun
from ode_core.training.stacked_run import StackedTrainingRun

BATCH = 128
# A turn is some iterations in a row, as in a training: right after another candidate's turn an iteration finds its code
# out of the cache.
IN_A_ROW = 10
STEPS = (2, 16, 64)
TARGETED_STEPS = (16, 64)
TARGETS = {1: 1 / 6, 5: 1 / 10}  # by the number of seeds in one iteration: time a seed, of torchdiffeq's loop


@dataclass(frozen=True)
class Candidate:
    """One way to do an iteration.

    Attributes:
        make: from the number of Euler steps and the device to a call that does one iteration.
        seeds: how many models a call trains.
    """

    make: Callable[[int, torch.device], Callable[[], object]]
    seeds: int = 1


def training_spec(steps: int) -> TrainingJobSpec:
    return TrainingJobSpec(
        name="sphere2",
        dataset=ConcentricSpheresSpec(dimension=2),
        model=PRESETS["sphere2"],
        solver=SolverSpec(method="euler", steps=steps),
        training=TrainingSpec(iterations=1_000_000, batch_size=BATCH, learning_rate=1e-4),
    )


def our_iteration(steps: int, device: torch.device) -> Callable[[], object]:
    spec = training_spec(steps)
    run = TrainingRun(spec, load_dataset(spec.dataset, None), device)
    return run.advance


def our_stacked_iteration(steps: int, device: torch.device) -> Callable[[], object]:
    spec = training_spec(steps)
    return StackedTrainingRun(spec, range(5), load_dataset(spec.dataset, None), device).advance


def torchdiffeq_iteration(steps: int, device: torch.device) -> Callable[[], object]:
    """The same model, optimiser and data, with torchdiffeq's loop for the solve."""
    spec = training_spec(steps)
    dataset = load_dataset(spec.dataset, None)
    model = build_model(spec).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    inputs = dataset.train_inputs[:BATCH].reshape(BATCH, *model.input_shape).float().to(device)
    labels = dataset.train_labels[:BATCH].to(device)
    interval = torch.tensor([0.0, 1.0], device=device)

    def iteration() -> None:
        optimizer.zero_grad(set_to_none=True)
        final = torchdiffeq.odeint(model.field, inputs, interval, method="euler", options={"step_size": 1.0 / steps})[
            -1
        ]
        cross_entropy(model.head(final), labels).backward()
        optimizer.step()

    return iteration


PEER = "torchdiffeq loop"
CANDIDATES = {
    "odeness": Candidate(our_iteration),
    "odeness, stacked": Candidate(our_stacked_iteration, seeds=5),
    PEER: Candidate(torchdiffeq_iteration),
}


def in_a_row(iteration: Callable[[], object]) -> Callable[[], object]:
    """Return a call that makes a turn's iterations."""

    def turn() -> None:
        for _ in range(IN_A_ROW):
            iteration()

    return turn


def table(rounds: int, device: torch.device, rates: MachineRates) -> Table:
    """Measure and return table (b)."""
    rows, below = [], []
    for steps in STEPS:
        turns = measure_interleaved(
            {name: in_a_row(candidate.make(steps, device)) for name, candidate in CANDIDATES.items()}, rounds=rounds
        )
        seconds = {name: turn / IN_A_ROW for name, turn in turns.items()}
        for name, candidate in CANDIDATES.items():
            a_seed = seconds[name] / candidate.seeds
            ratio = a_seed / seconds[PEER]
            row = [str(steps), name, str(candidate.seeds), f"{seconds[name] * 1e3:.2f}", f"{a_seed * 1e3:.2f}"]
            rows.append([*row, ratio_text(ratio)])
            if name != PEER and steps in TARGETED_STEPS:
                what = f"Euler {steps}, {candidate.seeds} seed(s) at once, odeness / torchdiffeq, time a seed"
                below.append(verdict(what, ratio, TARGETS[candidate.seeds]))
        below.append(f"Floor of Euler {steps}: {_floor(steps, rates)} a seed.")
    return Table(
        title="(b) Training iteration of Sphere2",
        what=f"Batch {BATCH}, Adam, float32, on {device}; forward, backward and update; odeness also draws the batch "
        f"and records its metrics. Medians of {rounds} interleaved turns of {IN_A_ROW} iterations.",
        header=("Euler steps", "", "seeds", "iteration ms", "ms a seed", "of torchdiffeq's"),
        rows=rows,
        below=[*below, "The floors' bytes go at the speed of memory; what stays in the cache is faster."],
    )


def _floor(steps: int, rates: MachineRates) -> str:
    """Backward takes two products for each of forward's; numbers are moved twice forward, three times backward."""
    cost = field_cost(PRESETS["sphere2"], (2,))
    return rates.floors(3 * BATCH * steps * cost.multiply_adds, 5 * 4 * BATCH * steps * cost.values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print(table(arguments.rounds, arguments.device, measure_rates(arguments.device)).markdown())


if __name__ == "__main__":
    main()
