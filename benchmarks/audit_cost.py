"""What each part of an audit with its mechanism costs, as a multiple of one sweep of the same model and samples.

One sweep is euler, midpoint and rk4 with 1, 2, 4, ..., 128 steps: 1,785 evaluations of the field a sample. It is
measured on the samples that are audited; of images on at most 100 of them, and multiplied.

python -m benchmarks.audit_cost [--models sphere2-2 digits-32] [--samples 1000] [--threads 1]

A model is named by its data set and, of Sphere2, the Euler steps, of images the channels. MNIST and CIFAR-10 are read
from the folder that ODENESS_DATASETS_DIR names:

python -m benchmarks.audit_cost --models digits-32 mnist-16 cifar10-16 --samples 200
"""

import argparse
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.interleaved import machine
from benchmarks.sweep_time import SweptModel
from benchmarks.tables import Table
from ode_core.audit.audit import audit
from ode_core.audit.diagnosis import Diagnosis, diagnose
from ode_core.audit.sweep import sweep
from ode_core.datasets.load import load_dataset
from ode_core.specs import SolverSpec, TrainingJobSpec, evaluation_operations
from ode_core.training.run import TrainingRun

PARTS = ("verdict", "ladder", "reference", "choice", "spectrum", "interventions", "transport", "rescue")
DEFAULT = ("sphere2-2", "sphere2-16", "sphere2-64", "digits-32")
SWEPT_IMAGES = 100
# Beginnings of the messages that audit and diagnosis report their parts with.
_BEGINNINGS = {
    "predictions with": "verdict",
    "simpler rules": "verdict",
    "ladder": "ladder",
    "converged reference": "reference",
    "solvers to serve with": "choice",
    "steps of the training solver": "spectrum",
    "derivatives of the steps": "spectrum",
    "interventions": "interventions",
    "transport": "transport",
    "modified field": "rescue",
}


@dataclass(frozen=True)
class Cost:
    """The processor's seconds of each part, and of one sweep of all ``samples``; the diagnosis looks at some."""

    name: str
    samples: int
    verdict: str
    flip_rate: float
    diagnosis: Diagnosis
    seconds: dict[str, float]
    sweep: float

    def cells(self) -> list[str]:
        """Return the row of the table."""
        whole = sum(self.seconds.values())
        found = self.diagnosis.mechanism
        return [
            self.name,
            str(self.samples),
            f"{self.verdict} ({self.flip_rate:.1%})",
            f"{self.sweep:.2f}",
            *(f"{self.seconds[part] / self.sweep:.2f}" for part in PARTS),
            f"{whole / self.sweep:.1f} ({whole:.0f} s)",
            str(self.diagnosis.samples),
            "-" if found is None else f"{found.spectrum.flagged_share:.1%} / {found.spectrum.undecided_share:.1%}",
        ]


class PartClock:
    """Adds up the processor's seconds between progress reports by the part they are reported from.

    On a busy machine those are what an idle one would take, which the clock's are not.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._number, self._part, self._since = 0, PARTS[0], time.process_time()

    def __call__(self, number: int, parts: int, message: str) -> None:
        """Note a report of an audit or of a diagnosis."""
        now = time.process_time()
        self.seconds[self._part] += now - self._since
        self._since = now
        if number != self._number:  # within a part the message is another
            self._part = next(part for start, part in _BEGINNINGS.items() if message.startswith(start))
            self._number = number

    def restart(self) -> None:
        """Begin with the parts of another computation."""
        self(self._number, 0, "")
        self._number = 0


def trained(name: str, iterations: int | None = None) -> TrainingJobSpec:
    """Return the short training of a model by name: its data, its size and, for Sphere2, its Euler steps."""
    kind, _, size = name.partition("-")
    if kind == "sphere2":
        dataset, model = {"kind": "concentric_spheres", "dimension": 2}, {"kind": "preset", "name": "sphere2"}
        steps, training = int(size), {"iterations": 600, "batch_size": 128, "learning_rate": 2e-3}
    else:
        limits = {} if kind == "digits" else {"train_limit": 2000, "test_limit": 1000}
        channels = int(size or "16")
        dataset = {"kind": kind} | limits
        model = {"kind": "classifier", "field": {"kind": "conv2d", "channels": channels}}
        # Enough to make two long steps no ODE; with 128 channels an iteration takes a second.
        steps, training = 2, {"iterations": 20 if channels > 64 else 60, "batch_size": 64, "learning_rate": 5e-3}
    if iterations is not None:
        training["iterations"] = iterations
    return TrainingJobSpec.model_validate(
        {
            "name": name,
            "dataset": dataset,
            "model": model,
            "solver": {"method": "euler", "steps": steps},
            "training": training,
        }
    )


def measure(name: str, samples: int, *, sweep_samples: int | None = None, iterations: int | None = None) -> Cost:
    """Train a model and return what its audit costs."""
    spec = trained(name, iterations)
    folder = os.environ.get("ODENESS_DATASETS_DIR")
    data = load_dataset(spec.dataset, None if folder is None else Path(folder))
    run = TrainingRun(spec, data, torch.device("cpu"))
    while not run.finished:
        run.advance()
    model = run.model.eval()
    inputs, labels = data.test_inputs[:samples], data.test_labels[:samples]
    clock = PartClock()
    report = audit(model, inputs, labels, run.solver, on_progress=clock)
    clock.restart()
    if sweep_samples is None and not name.startswith("sphere2"):
        sweep_samples = SWEPT_IMAGES
    operations = evaluation_operations(spec.architecture, spec.dataset.input_shape)
    diagnosis = diagnose(model, inputs, labels, report, operations=operations, on_progress=clock)
    clock.restart()
    return Cost(
        name=name,
        samples=len(labels),
        verdict=report.verdict,
        flip_rate=report.flip_rate,
        diagnosis=diagnosis,
        seconds=clock.seconds,
        sweep=_sweep_seconds(run, inputs[:sweep_samples], labels[:sweep_samples])
        * len(labels)
        / len(labels[:sweep_samples]),
    )


def _sweep_seconds(run: TrainingRun, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    solvers: list[SolverSpec] = SweptModel().solvers
    start = time.process_time()
    sweep(run.model, inputs, labels, solvers[0], solvers)
    return time.process_time() - start


def table(costs: list[Cost]) -> Table:
    """Return the table of the costs."""
    return Table(
        title="(f) An audit",
        what="Models after a short training, float32; seconds of the processor. The unit is one sweep: euler, midpoint "
        "and rk4 with 1, 2, 4, ..., 128 steps on the audited samples. Spectrum to rescue are of those looked at.",
        header=(
            "model",
            "samples",
            "verdict (flips)",
            "sweep s",
            *PARTS,
            "all",
            "looked at",
            "flagged / undecided",
        ),
        rows=[cost.cells() for cost in costs],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=DEFAULT)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--sweep-samples", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}\n")
    costs = [measure(name, arguments.samples, sweep_samples=arguments.sweep_samples) for name in arguments.models]
    print(table(costs).markdown())


if __name__ == "__main__":
    main()
