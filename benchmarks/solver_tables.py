"""All tables on the solver engine in one run, with one thread on one core: Markdown on standard output.

python -m benchmarks.solver_tables [--only a b c d e] [--quick] [--device cuda] [--peers .venv-peers]

``--quick`` takes tiny sizes, to see that everything runs; its numbers mean nothing. ``--device`` is for tables
(b), (c) and (e); (a) compares on the CPU, where all the peers run.
"""

import argparse
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import adaptive_loop, image_field, sphere2_iteration, sweep_time
from benchmarks.floors import measure_rates
from benchmarks.image_field import ImageSolve
from benchmarks.interleaved import machine
from benchmarks.one_core import stay_on_one_core
from benchmarks.sweep_time import SweptModel
from benchmarks.van_der_pol import VanDerPol
from ode_core.specs import ClassifierSpec, Conv2dField


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices="abcde", default="abcde", metavar="TABLE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers"), help="the peers' virtual environment")
    arguments = parser.parse_args()
    stay_on_one_core()
    torch.set_num_threads(1)
    tables = quick_tables(arguments.device) if arguments.quick else full_tables(arguments.device, arguments.peers)
    print(f"{platform.system()}, {machine()}. Command: `python -m benchmarks.solver_tables {' '.join(sys.argv[1:])}`\n")
    for letter in arguments.only:
        print(tables[letter](), flush=True)


def full_tables(device: torch.device, peers: Path) -> dict[str, Callable[[], str]]:
    """Return for each letter the call that measures its table."""
    rates = measure_rates(device)
    python = peers / "bin" / "python"
    return {
        "a": lambda: adaptive_loop.table(VanDerPol(), 30, python).markdown(),
        "b": lambda: sphere2_iteration.table(30, device, rates).markdown(),
        "c": lambda: image_field.table(ImageSolve(), 3, device, rates).markdown(),
        "d": _gradient_memory,
        "e": lambda: sweep_time.table(SweptModel(), 7, device, rates).markdown(),
    }


def quick_tables(device: torch.device) -> dict[str, Callable[[], str]]:
    """Return the same on tiny sizes and without the peers' environment."""
    rates = measure_rates(device, repeats=1)
    small = ImageSolve(ClassifierSpec(field=Conv2dField(channels=2)), batch=2, steps=1)
    return {
        "a": lambda: adaptive_loop.table(VanDerPol(problems=3, outputs=5), 1, None).markdown(),
        "b": lambda: sphere2_iteration.table(1, device, rates).markdown(),
        "c": lambda: image_field.table(small, 1, device, rates).markdown(),
        "d": lambda: _gradient_memory("--steps", "2", "--batch", "4"),
        "e": lambda: sweep_time.table(SweptModel(samples=8, steps=2), 1, device, rates).markdown(),
    }


def _gradient_memory(*options: str) -> str:
    """Return table (d), measured in a process of its own, where nothing else has used memory before."""
    command = [sys.executable, "-m", "benchmarks.gradient_memory", *options]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return f"## (d) Memory of the gradient modes\n\n{printed}"


if __name__ == "__main__":
    main()
