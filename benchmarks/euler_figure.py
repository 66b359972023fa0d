"""What the trainings of the paper's Euler figure cost: ours with five seeds as one, and torchdiffeq's loop.

python -m benchmarks.euler_figure [--rounds 10]

An iteration is measured at each of the figure's step counts and taken 10,000 times for each of five seeds; the tests
of the models are left out.
"""

import argparse

import torch

from benchmarks.interleaved import machine, measure_interleaved
from benchmarks.one_core import stay_on_one_core
from benchmarks.sphere2_iteration import our_stacked_iteration, torchdiffeq_iteration
from benchmarks.tables import Table, ratio_text

ITERATIONS, SEEDS = 10_000, 5
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)


def table(rounds: int, device: torch.device) -> Table:
    """Measure and return the table, a row for each step count and their sum."""
    rows = []
    ours_total = peer_total = 0.0
    for steps in STEPS:
        seconds = measure_interleaved(
            {"odeness": our_stacked_iteration(steps, device), "torchdiffeq": torchdiffeq_iteration(steps, device)},
            rounds=rounds,
        )
        ours, peer = seconds["odeness"], SEEDS * seconds["torchdiffeq"]
        ours_total, peer_total = ours_total + ours, peer_total + peer
        rows.append(_row(str(steps), ours, peer))
    rows.append(_row("all", ours_total, peer_total))
    return Table(
        title="Trainings of the Euler figure",
        what=f"Sphere2, batch 128, Adam, float32, on {device}: {SEEDS} seeds of {ITERATIONS:,} iterations by number of "
        f"Euler steps, reckoned from the median iteration of {rounds} interleaved ones. The peer is the same model "
        f"with torchdiffeq's loop for the solve, one seed after another.",
        header=("Euler steps", "odeness ms", "torchdiffeq ms", "odeness min", "torchdiffeq min", "ratio"),
        rows=rows,
        below=["ms: one iteration of all five seeds."],
    )


def _row(steps: str, ours: float, peer: float) -> list[str]:
    minutes = [f"{ITERATIONS * seconds / 60:.1f}" for seconds in (ours, peer)]
    return [steps, f"{ours * 1e3:.2f}", f"{peer * 1e3:.1f}", *minutes, ratio_text(ours / peer)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    print(f"{machine()}\n")
    print(table(arguments.rounds, arguments.device).markdown())


if __name__ == "__main__":
    main()
