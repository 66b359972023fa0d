"""Peak memory and time of one training iteration with each gradient mode, by the number of steps.

python -m benchmarks.gradient_memory [--steps 16 64 256] [--batch 128] [--process]

Memory is the most bytes of tensors that are alive at once, beyond parameters, their gradients and data, counted by
benchmarks.live_memory. With --process it is by how much the resident memory of a fresh process peaks above that
before the iteration (Linux only), which includes what the allocator and the libraries hold.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks.interleaved import machine
from benchmarks.live_memory import LiveBytes
from ode_core.models.classifier import Classifier
from ode_core.specs import METHODS, ClassifierSpec, GradientMode, LinearStem, MlpField, SolverSpec

FEATURES, HIDDEN, CLASSES, MIB = 32, 128, 10, 2**20
GRIDS: tuple[tuple[GradientMode, str], ...] = (
    ("backprop", "rk4"),
    ("checkpoint", "rk4"),
    ("adjoint", "rk4"),
    ("backprop", "asynchronous_leapfrog"),
    ("reversible", "asynchronous_leapfrog"),
)
# A method of low order, so that some tolerance makes as many steps as the grids have.
TOLERANCES: tuple[tuple[GradientMode, str], ...] = (
    ("backprop", "fehlberg2"),
    ("checkpoint", "fehlberg2"),
    ("adjoint", "fehlberg2"),
    ("adjoint_seminorm", "fehlberg2"),
)


class Iteration:
    """A classifier with an mlp field in float64, and forward and backward pass of a training iteration."""

    def __init__(self, batch: int) -> None:
        spec = ClassifierSpec(field=MlpField(hidden=(HIDDEN,)), stem=LinearStem(features=FEATURES))
        self.model = Classifier(spec, (FEATURES,), CLASSES, 1.0, seed=0).double()
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(batch, FEATURES, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(CLASSES, (batch,), generator=generator)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def run(self, gradient: GradientMode, solver: SolverSpec) -> None:
        output = self.model.run(self.inputs, solver, gradient=gradient)
        cross_entropy(output.logits, self.labels).backward()

    def solver(self, method: str, steps: int, *, tolerances: bool) -> SolverSpec:
        """The method on a grid, or with the tolerance that makes about as many steps for the slowest sample."""
        if not tolerances:
            return SolverSpec.model_validate({"method": method, "steps": steps})
        low, high = -12.0, 0.0
        for _ in range(16):
            middle = 10 ** ((low + high) / 2)
            solver = SolverSpec.model_validate({"method": method, "rtol": middle, "atol": middle})
            if int(self.model.predict(self.inputs, solver).solution.accepted.max()) > steps:
                low = (low + high) / 2
            else:
                high = (low + high) / 2
        return solver


def live_mebibytes(batch: int, gradient: GradientMode, solver: SolverSpec) -> float:
    # Fresh, as a field keeps the memory of its last solve for the next one, where it would not be seen.
    iteration = Iteration(batch)
    with LiveBytes() as live:
        iteration.run(gradient, solver)
    return live.peak / MIB


def process_mebibytes(batch: int, gradient: GradientMode, solver: SolverSpec) -> float:
    """Run the iteration in a fresh process, whose allocator gives large blocks back at once."""
    command = [sys.executable, "-m", "benchmarks.gradient_memory", "--batch", str(batch)]
    command += ["--cell", gradient, solver.model_dump_json()]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def resident_growth(batch: int, gradient: GradientMode, solver: SolverSpec) -> float:
    iteration = Iteration(batch)
    shortest = solver.with_steps(1) if not solver.adaptive else SolverSpec(method=solver.method, rtol=1.0, atol=1.0)
    iteration.run(gradient, shortest)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before = _resident("VmRSS")
    iteration.run(gradient, solver)
    return _resident("VmHWM") - before


def _resident(entry: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(entry))


def best_milliseconds(iteration: Iteration, gradient: GradientMode, solver: SolverSpec, rounds: int = 3) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        iteration.run(gradient, solver)
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--process", action="store_true", help="measure the resident memory of fresh processes")
    parser.add_argument("--cell", nargs=2, metavar=("GRADIENT", "SOLVER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cell:
        gradient, solver = arguments.cell
        print(resident_growth(arguments.batch, gradient, SolverSpec.model_validate_json(solver)))
        return
    print(
        f"{machine()}; batch {arguments.batch}, state {FEATURES}, hidden {HIDDEN}, float64; peak MiB / best ms of 3\n"
    )
    print(f"| gradient | method | {' | '.join(f'N = {steps}' for steps in arguments.steps)} |")
    print(f"|---|---|{'---|' * len(arguments.steps)}")
    iteration, solvers = Iteration(arguments.batch), dict[tuple[str, int], SolverSpec]()
    for rows, tolerances in ((GRIDS, False), (TOLERANCES, True)):
        for gradient, method in rows:
            cells = []
            for steps in arguments.steps:
                if (method, steps) not in solvers:
                    solvers[method, steps] = iteration.solver(method, steps, tolerances=tolerances)
                solver = solvers[method, steps]
                milliseconds = best_milliseconds(iteration, gradient, solver)
                if arguments.process:
                    memory = process_mebibytes(arguments.batch, gradient, solver)
                else:
                    memory = live_mebibytes(arguments.batch, gradient, solver)
                cells.append(f"{memory:.1f} / {milliseconds:.0f}")
            label = f"{method}{', tolerances' if tolerances else ''} (order {METHODS[solver.method].order})"
            print(f"| {gradient} | {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
