"""The published files of MNIST and CIFAR-10: where they are looked for, and whether they are there.

Loads neither torch nor numpy, so that a job can be refused before a worker sees it.
"""

import gzip
import lzma
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from ode_core.specs.dataset import Cifar10Spec, DatasetSpec, MnistSpec

MNIST_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
MNIST_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10_BATCH_SIZE = 10_000
CIFAR10_TEST = "test_batch.bin"

_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "."),
    "cifar10": ("cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "."),
}
_PACKINGS = ("", ".gz", ".xz")


class DatasetUnavailable(Exception):
    """A data set's files are missing or damaged; the message says which and what to do."""


def cifar10_train_files(train_limit: int) -> tuple[str, ...]:
    """Return the training files needed for the first ``train_limit`` images."""
    count = -(-train_limit // CIFAR10_BATCH_SIZE)
    return tuple(f"data_batch_{i}.bin" for i in range(1, count + 1))


def needed_files(spec: DatasetSpec) -> tuple[str, ...]:
    """Return the names of the published files a data set is read from; empty if it needs none."""
    if isinstance(spec, MnistSpec):
        return (*MNIST_TRAIN, *MNIST_TEST)
    if isinstance(spec, Cifar10Spec):
        return (*cifar10_train_files(spec.train_limit), CIFAR10_TEST)
    return ()


def check_dataset_files(spec: DatasetSpec, directory: Path | None) -> None:
    """Raise ``DatasetUnavailable`` if a file the data set is read from is not there."""
    for name in needed_files(spec):
        find_file(spec.kind, name, directory)


def find_file(kind: str, name: str, directory: Path | None) -> Path:
    """Return where a published file lies, plain or packed with gzip or xz.

    Raises:
        DatasetUnavailable: it is in none of the places.
    """
    if directory is None:
        raise DatasetUnavailable(
            f"{kind} is read from its published files: put them into a folder and name it in ODENESS_DATASETS_DIR"
        )
    for path in _candidates(kind, name, directory):
        if path.is_file():
            return path
    raise DatasetUnavailable(
        f"{kind} needs the published file {name} (plain, .gz or .xz), which is not in "
        f"{directory / _FOLDERS[kind][0]}: put it there, or name another folder in ODENESS_DATASETS_DIR"
    )


def _candidates(kind: str, name: str, directory: Path) -> Iterable[Path]:
    for folder in _FOLDERS[kind]:
        for packing in _PACKINGS:
            yield directory / folder / f"{name}{packing}"


def read_start(path: Path, size: int) -> bytes:
    """Return the first ``size`` bytes of a file, fewer if it is shorter, unpacked if it is packed.

    Only as much is unpacked as is asked for; if that is everything, the packing's checksum is checked too.

    Raises:
        DatasetUnavailable: it cannot be read or unpacked.
    """
    try:
        with _open(path) as file:
            content = file.read(size)
            file.read(1)  # gzip and xz compare their checksums when they come to the end
            return content
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:  # gzip's own error is an OSError
        raise DatasetUnavailable(f"{path} cannot be read ({error}): get the file anew") from None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")
