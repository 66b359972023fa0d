"""Reads one uploaded file in a process of its own: ``python -m ode_core.datasets.upload_reader SOURCE TARGET OPTIONS``.

The file comes from outside. Whatever it does to the libraries that read it, to memory or to time, it does to this
process and not to the server. The answer is one line of JSON.
"""

import json
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from ode_core.datasets.labelled_arrays import ArraysRefused, LabelledArrays, labelled_arrays
from ode_core.datasets.npz_file import MAGIC as NPZ
from ode_core.datasets.npz_file import read_npz
from ode_core.datasets.parquet_file import MAGIC as PARQUET
from ode_core.datasets.parquet_file import read_parquet

TEST_FRACTION, SPLIT_SEED, LABEL = 0.2, 0, "label"
SECONDS = 300  # of processor time
_HEADER = 1 << 16
_MEMORY, _TIMES = 3 << 30, 8  # bytes of address space for the libraries, and for each byte that the arrays may take


def read_upload(source: Path, options: dict[str, Any]) -> tuple[LabelledArrays, dict[str, Any]]:
    """Return the data set in a file, and how it was read: ``format``, and of a split its fraction and seed.

    Args:
        source: an npz or a Parquet file; which, its first bytes say.
        options: ``limit`` in bytes; ``label``, ``test_fraction`` and ``split_seed``, each may be None.

    Raises:
        ArraysRefused: with the reason.
    """
    with source.open("rb") as file:
        start = file.read(4)
    test = None
    if start.startswith(NPZ):
        arrays = read_npz(source, options["limit"])
        train, test = _parts(arrays, options)
        facts: dict[str, Any] = {"format": "npz"}
    elif start == PARQUET:
        train = read_parquet(source, options["label"] or LABEL, options["limit"])
        facts = {"format": "parquet", "label": options["label"] or LABEL}
    else:
        what = "is empty" if not start else "is neither an npz nor a Parquet file"
        raise ArraysRefused(f"the file {what}: make it with numpy.savez(file, inputs=..., labels=...)")
    fraction = TEST_FRACTION if options["test_fraction"] is None else options["test_fraction"]
    seed = SPLIT_SEED if options["split_seed"] is None else options["split_seed"]
    if test is None:
        facts |= {"test_fraction": fraction, "split_seed": seed}
    return labelled_arrays(train, test, test_fraction=fraction, split_seed=seed), facts


def _parts(arrays: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    if options["label"] is not None:
        raise ArraysRefused("label names a column of a Parquet file, and this is an npz file: leave it out")
    for name in ("inputs", "labels"):
        if name not in arrays:
            raise ArraysRefused(f"the npz file has no array {name}: it must have inputs and labels")
    tests = [name for name in ("test_inputs", "test_labels") if name in arrays]
    if len(tests) == 1:
        raise ArraysRefused(f"the npz file has {tests[0]} alone: give both test_inputs and test_labels, or neither")
    if not tests:
        return (arrays["inputs"], arrays["labels"]), None
    if options["test_fraction"] is not None or options["split_seed"] is not None:
        raise ArraysRefused("the file has its own test samples: leave test_fraction and split_seed out")
    return (arrays["inputs"], arrays["labels"]), (arrays["test_inputs"], arrays["test_labels"])


def _bound_this_process(limit: int) -> None:
    bounds = {resource.RLIMIT_AS: _MEMORY + _TIMES * limit, resource.RLIMIT_CPU: SECONDS, resource.RLIMIT_CORE: 0}
    for what, bound in bounds.items():
        try:
            resource.setrlimit(what, (bound, bound))
        except (ValueError, OSError):
            # macOS knows no bound on memory; sizes are still checked before anything is unpacked.
            continue


def main() -> None:
    """Read the file that the arguments name; write the data set and one line about it."""
    source, target, text = sys.argv[1:]
    options = json.loads(text)
    _bound_this_process(options["limit"])
    warnings.simplefilter("ignore")  # of numpy about odd headers
    try:
        arrays, how = read_upload(Path(source), options)
        stored = arrays.to_bytes()
        if len(stored) > options["limit"] + _HEADER:
            raise ArraysRefused(
                "the arrays are too large as floating-point numbers: upload fewer samples", too_large=True
            )
        Path(target).write_bytes(stored)
        answer: dict[str, Any] = {
            "how": how | {"dtype": str(arrays.train_inputs.dtype)},
            "facts": {
                "input_shape": list(arrays.train_inputs.shape[1:]),
                "classes": arrays.classes,
                "train_samples": len(arrays.train_labels),
                "test_samples": len(arrays.test_labels),
                "sha256": arrays.fingerprint,
            },
        }
    except ArraysRefused as refused:
        answer = {"refused": str(refused), "too_large": refused.too_large}
    except MemoryError:
        answer = {"refused": "the file takes too much memory to read: upload fewer samples", "too_large": True}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
