"""One training iteration of the paper's Sphere2 model: our solver loop against torchdiffeq's.

python -m benchmarks.sphere2_iteration [--rounds 50]
"""

import argparse
from collections.abc import Callable

import torch
import torchdiffeq
from torch.nn.functional import cross_entropy

from benchmarks.interleaved import machine, measure_interleaved
from ode_core.datasets.load import load_dataset
from ode_core.models.classifier import build_model
from ode_core.specs import PRESETS, ConcentricSpheresSpec, SolverSpec, TrainingJobSpec, TrainingSpec
from ode_core.training.run import TrainingRun

BATCH = 128


def training_spec(steps: int) -> TrainingJobSpec:
    return TrainingJobSpec(
        name="sphere2",
        dataset=ConcentricSpheresSpec(dimension=2),
        model=PRESETS["sphere2"],
        solver=SolverSpec(method="euler", steps=steps),
        training=TrainingSpec(iterations=1_000_000, batch_size=BATCH, learning_rate=1e-4),
    )


def our_iteration(steps: int) -> Callable[[], object]:
    spec = training_spec(steps)
    run = TrainingRun(spec, load_dataset(spec.dataset, None), torch.device("cpu"))
    return run.advance


def torchdiffeq_iteration(steps: int) -> Callable[[], object]:
    """The same model, optimiser and data, with torchdiffeq's loop for the solve."""
    spec = training_spec(steps)
    dataset = load_dataset(spec.dataset, None)
    model = build_model(spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    inputs = dataset.train_inputs[:BATCH].reshape(BATCH, *model.input_shape).float()
    labels = dataset.train_labels[:BATCH]
    interval = torch.tensor([0.0, 1.0])

    def iteration() -> None:
        optimizer.zero_grad(set_to_none=True)
        final = torchdiffeq.odeint(model.field, inputs, interval, method="euler", options={"step_size": 1.0 / steps})[
            -1
        ]
        cross_entropy(model.head(final), labels).backward()
        optimizer.step()

    return iteration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"Sphere2, one training iteration, batch {BATCH}; medians of {rounds} interleaved rounds")
    print(f"{machine()}\n")
    print("| Euler steps | odeness ms | torchdiffeq loop ms | ratio |\n|---|---|---|---|")
    for steps in (2, 16, 64):
        candidates = {"odeness": our_iteration(steps), "torchdiffeq": torchdiffeq_iteration(steps)}
        seconds = measure_interleaved(candidates, rounds=rounds)
        ratio = seconds["odeness"] / seconds["torchdiffeq"]
        print(f"| {steps} | {seconds['odeness'] * 1e3:.2f} | {seconds['torchdiffeq'] * 1e3:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
