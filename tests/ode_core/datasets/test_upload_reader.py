import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ode_core.datasets.labelled_arrays import LabelledArrays

OPTIONS = {"limit": 100_000, "label": None, "test_fraction": None, "split_seed": None}


def read(tmp_path: Path, **arrays: np.ndarray) -> dict[str, object]:
    np.savez(tmp_path / "upload.npz", **arrays)
    command = [sys.executable, "-m", "ode_core.datasets.upload_reader", str(tmp_path / "upload.npz")]
    done = subprocess.run(
        [*command, str(tmp_path / "arrays"), json.dumps(OPTIONS)], capture_output=True, text=True, check=True
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_the_process_writes_the_arrays_and_tells_their_facts(tmp_path: Path) -> None:
    answer = read(tmp_path, inputs=np.zeros((20, 3, 4), np.uint8), labels=np.arange(20) % 2)
    stored = LabelledArrays.from_bytes((tmp_path / "arrays").read_bytes())
    assert answer["facts"] == {
        "input_shape": [3, 4],
        "classes": 2,
        "train_samples": 16,
        "test_samples": 4,
        "sha256": stored.fingerprint,
    }
    assert answer["how"] == {"format": "npz", "test_fraction": 0.2, "split_seed": 0, "dtype": "uint8"}


def test_arrays_that_grow_beyond_the_limit_as_floating_point_numbers_are_refused(tmp_path: Path) -> None:
    answer = read(tmp_path, inputs=np.zeros((20, 4000), np.int8), labels=np.arange(20) % 2)
    assert answer["too_large"]
    assert "as floating-point numbers" in str(answer["refused"])
    assert not (tmp_path / "arrays").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound a process's memory")
def test_the_process_cannot_take_more_memory_than_its_bound() -> None:
    code = (
        "from ode_core.datasets import upload_reader\n"
        "upload_reader._bound_this_process(1000)\n"
        "try:\n    bytearray(upload_reader._MEMORY)\nexcept MemoryError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
