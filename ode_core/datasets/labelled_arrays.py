"""Arrays that a user gives as a data set: checked, split, and as bytes. With numpy, without torch."""

import hashlib
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Array = npt.NDArray[Any]

LEAST_SAMPLES = 4  # of either part
MOST_CLASSES = 10_000
MOST_DIMENSIONS = 3  # of one input
_LARGEST = float(np.finfo(np.float32).max)
_EXACT = 2**53  # integers up to here are numbers of float64


class ArraysRefused(ValueError):
    """The arrays, or the file they are in, cannot be a data set; the message says why and what to do.

    Attributes:
        too_large: whether it is their size alone.
    """

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


@dataclass(frozen=True)
class LabelledArrays:
    """Inputs ``(n, *input_shape)`` in the data set's own units (uint8, float32 or float64), int64 labels ``(n,)``."""

    train_inputs: Array
    train_labels: Array
    test_inputs: Array
    test_labels: Array

    @property
    def classes(self) -> int:
        """Number of labels: they are 0 to ``classes - 1``."""
        return int(self.train_labels.max()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all inputs and labels: that of ``Dataset`` with the same tensors."""
        digest = hashlib.sha256()
        for part in astuple(self):
            digest.update(f"torch.{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """Return the arrays as a safetensors file."""
        return save({name: np.ascontiguousarray(getattr(self, name)) for name in self.__dataclass_fields__})

    @classmethod
    def from_bytes(cls, data: bytes) -> "LabelledArrays":
        """Return the arrays read from ``to_bytes``'s output.

        Raises:
            ArraysRefused: the bytes are something else.
        """
        try:
            arrays = load(data)
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
        except (SafetensorError, KeyError, ValueError) as error:
            raise ArraysRefused(f"these bytes are no stored data set: {error}") from None


def labelled_arrays(
    train: tuple[Array, Array], test: tuple[Array, Array] | None, *, test_fraction: float, split_seed: int
) -> LabelledArrays:
    """Return checked arrays with their test part: the one given, or a share of every class drawn by ``split_seed``.

    Args:
        train: inputs ``(n, *input_shape)`` and labels ``(n,)``.
        test: the same, or None.
        test_fraction: of the samples, where ``test`` is None.
        split_seed: of the draw, where ``test`` is None.

    Raises:
        ArraysRefused: shapes, types or values cannot be a data set's.
    """
    inputs, labels = _checked("inputs", train[0], "labels", train[1])
    if test is None:
        parts = _split(inputs, labels, test_fraction, split_seed)
    else:
        test_inputs, test_labels = _checked("test_inputs", test[0], "test_labels", test[1])
        if test_inputs.shape[1:] != inputs.shape[1:]:
            raise ArraysRefused(
                f"one of inputs has shape {list(inputs.shape[1:])}, one of test_inputs {list(test_inputs.shape[1:])}: "
                f"make them the same"
            )
        common = np.result_type(inputs, test_inputs)
        parts = (inputs.astype(common, copy=False), labels, test_inputs.astype(common, copy=False), test_labels)
    made = LabelledArrays(*parts)
    _check_counts(made)
    return made


def _checked(inputs_name: str, inputs: Array, labels_name: str, labels: Array) -> tuple[Array, Array]:
    if not 2 <= inputs.ndim <= 1 + MOST_DIMENSIONS:
        raise ArraysRefused(
            f"{inputs_name} has shape {list(inputs.shape)}: it must be (samples, features), "
            f"(samples, channels, length) or (samples, channels, height, width)"
        )
    if 0 in inputs.shape:
        raise ArraysRefused(f"{inputs_name} has shape {list(inputs.shape)}: there is nothing in it")
    if labels.shape != inputs.shape[:1]:
        raise ArraysRefused(
            f"{labels_name} has shape {list(labels.shape)}: it must have one label for each of the {len(inputs)} "
            f"samples of {inputs_name}, shape [{len(inputs)}]"
        )
    return _numbers(inputs_name, inputs), _classes(labels_name, labels)


def _numbers(name: str, values: Array) -> Array:
    """Return inputs in one of our types, without a digit lost."""
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind not in "biuf" or size > 8:
        raise ArraysRefused(f"{name} has type {values.dtype}: it must be integers, float16, float32 or float64")
    if kind == "b" or values.dtype == np.uint8:
        return values.astype(np.uint8)
    if kind in "iu":
        if size == 8 and len(values) and max(abs(int(values.min())), int(values.max())) > _EXACT:
            raise ArraysRefused(f"{name} has integers beyond 2^53, which no floating-point number is: scale them down")
        return values.astype(np.float32 if size <= 2 else np.float64)
    values = values.astype(np.float32 if size <= 4 else np.float64)
    largest = np.abs(values).max()  # of NaN this is NaN
    if not np.isfinite(largest):
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ArraysRefused(f"{name} has a number that is not finite in sample {row}: leave such samples out")
    if largest > _LARGEST:
        raise ArraysRefused(f"{name} has numbers up to {largest:.3g}, which float32 does not hold: scale them down")
    return values


def _classes(name: str, labels: Array) -> Array:
    if labels.dtype.kind not in "iu":
        raise ArraysRefused(f"{name} has type {labels.dtype}: labels must be integers, 0 to classes - 1")
    if int(labels.min()) < 0:
        raise ArraysRefused(f"{name} has the label {int(labels.min())}: labels are 0 to classes - 1")
    if int(labels.max()) >= MOST_CLASSES:
        raise ArraysRefused(f"{name} has the label {int(labels.max())}: there may be {MOST_CLASSES:,} classes, from 0")
    return labels.astype(np.int64)


def _split(inputs: Array, labels: Array, fraction: float, seed: int) -> tuple[Array, Array, Array, Array]:
    """Draw ``fraction`` of every class, rounded, for the test; both parts come in the order drawn."""
    order = np.random.default_rng(seed).permutation(len(labels))
    tested = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        tested[members[: round(fraction * len(members))]] = True
    train, test = order[~tested[order]], order[tested[order]]
    return inputs[train], labels[train], inputs[test], labels[test]


def _check_counts(arrays: LabelledArrays) -> None:
    missing = np.setdiff1d(np.arange(arrays.classes), arrays.train_labels)
    if arrays.classes < 2 or len(missing):
        absent = int(missing[0]) if len(missing) else 1
        raise ArraysRefused(
            f"no training sample has the label {absent}: each of 0 to classes - 1 must be there, and at least two"
        )
    for name, labels in (("training", arrays.train_labels), ("test", arrays.test_labels)):
        if len(labels) < LEAST_SAMPLES:
            raise ArraysRefused(f"there are {len(labels)} {name} samples: at least {LEAST_SAMPLES} are needed")
    if int(arrays.test_labels.max()) >= arrays.classes:
        raise ArraysRefused(
            f"a test sample has the label {int(arrays.test_labels.max())}, which no training sample has: "
            f"there are labels 0 to {arrays.classes - 1}"
        )
