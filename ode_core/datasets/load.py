"""Data sets as tensors, in their own units, split into train and test."""

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from ode_core.datasets.files import (
    CIFAR10_BATCH_SIZE,
    CIFAR10_TEST,
    MNIST_TEST,
    MNIST_TRAIN,
    DatasetUnavailable,
    cifar10_train_files,
    find_file,
    read_start,
)
from ode_core.datasets.labelled_arrays import ArraysRefused, LabelledArrays
from ode_core.datasets.three_minima import resting_minimum
from ode_core.specs.dataset import (
    Cifar10Spec,
    ConcentricSpheresSpec,
    DatasetSpec,
    DigitsSpec,
    MnistSpec,
    ThreeMinimaSpec,
    UploadedSpec,
    XorSpec,
)

IDX_UNSIGNED_BYTE = 0x08
CIFAR10_ROW = 1 + 3 * 32 * 32

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """Inputs ``(n, *sample_shape)`` in the data set's own units (uint8 or floating), int64 labels ``(n,)``."""

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all inputs and labels: which data exactly a model has seen."""
        digest = hashlib.sha256()
        for part in (self.train_inputs, self.train_labels, self.test_inputs, self.test_labels):
            digest.update(f"{part.dtype}{tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()


ReadUpload = Callable[[UploadedSpec], bytes]
"""Returns the stored bytes of an uploaded data set."""


def load_dataset(spec: DatasetSpec, directory: Path | None, read_upload: ReadUpload | None = None) -> Dataset:
    """Return the data set.

    Args:
        spec: which; of an uploaded one with its facts.
        directory: where published files lie.
        read_upload: where uploaded data sets come from.

    Raises:
        DatasetUnavailable: a file is missing or is not what its name says, or the uploaded data is not what it was.
    """
    match spec:
        case DigitsSpec():
            return _digits(spec)
        case ConcentricSpheresSpec():
            return _concentric_spheres(spec)
        case ThreeMinimaSpec():
            return _three_minima(spec)
        case XorSpec():
            return _xor()
        case MnistSpec():
            return _mnist(spec, directory)
        case Cifar10Spec():
            return _cifar10(spec, directory)
        case UploadedSpec():
            return _uploaded(spec, read_upload)


def _digits(spec: DigitsSpec) -> Dataset:
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images.astype(np.uint8).reshape(-1, 1, 8, 8),
        labels.astype(np.int64),
        test_size=spec.test_fraction,
        random_state=spec.split_seed,
        stratify=labels,
    )
    return Dataset(*(torch.from_numpy(part) for part in (train_x, train_y, test_x, test_y)))


def _concentric_spheres(spec: ConcentricSpheresSpec) -> Dataset:
    rng = np.random.default_rng(spec.seed)
    train = _spheres(rng, spec.train_samples, spec.dimension)
    test = _spheres(rng, spec.test_samples, spec.dimension)
    return Dataset(*train, *test)


def _spheres(rng: np.random.Generator, samples: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Draw points: label 1 in a middle shell for half of them, label 0 within it and around it."""
    inner, outer = samples // 4, (samples - samples // 4) // 3
    middle = samples - inner - outer
    shells = ((0.10, 0.15, inner, 0), (0.40, 0.45, outer, 0), (0.25, 0.30, middle, 1))
    radii = [low + (high - low) * rng.random(n) ** (1 / dimension) for low, high, n, _ in shells]
    labels = np.concatenate([np.full(n, label) for *_, n, label in shells])
    directions = rng.standard_normal((samples, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = directions * np.concatenate(radii)[:, None]
    order = rng.permutation(samples)
    return torch.from_numpy(points[order].astype(np.float32)), torch.from_numpy(labels[order].astype(np.int64))


def _three_minima(spec: ThreeMinimaSpec) -> Dataset:
    rng = np.random.default_rng(spec.seed)
    parts = []
    for samples in (spec.train_samples, spec.test_samples):
        # Rounded before they are followed: the labels are those of the very points that a model is given.
        points = rng.uniform((-1.0, -2.0), (2.0, 2.0), (samples, 2)).astype(np.float32)
        labels = resting_minimum(points.astype(np.float64))
        parts += [torch.from_numpy(points), torch.from_numpy(labels)]
    return Dataset(*parts)


def _xor() -> Dataset:
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0])
    return Dataset(points, labels, points, labels)


def _uploaded(spec: UploadedSpec, read_upload: ReadUpload | None) -> Dataset:
    if read_upload is None or spec.facts is None:
        raise DatasetUnavailable(
            f"the uploaded data set {spec.name} is in a server's database: run this as a job there"
        )
    try:
        arrays = LabelledArrays.from_bytes(read_upload(spec))
    except ArraysRefused as error:
        raise DatasetUnavailable(f"{spec.name} version {spec.version} is damaged ({error}): upload it anew") from None
    dataset = Dataset(*(torch.from_numpy(part) for part in astuple(arrays)))
    if dataset.fingerprint != spec.facts.sha256:
        raise DatasetUnavailable(
            f"{spec.name} version {spec.version} is not the data that the job was accepted with: upload it anew"
        )
    return dataset


def _mnist(spec: MnistSpec, directory: Path | None) -> Dataset:
    parts = []
    for files, limit in ((MNIST_TRAIN, spec.train_limit), (MNIST_TEST, spec.test_limit)):
        images = _read_idx(find_file("mnist", files[0], directory), (28, 28), limit)
        labels = _read_idx(find_file("mnist", files[1], directory), (), limit)
        if labels.max() > 9:
            raise DatasetUnavailable(f"{files[1]} holds labels above 9, so it is not MNIST's: get the file anew")
        parts += [torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64))]
    return Dataset(*parts)


def _read_idx(path: Path, entry_shape: tuple[int, ...], limit: int) -> UInt8Array:
    """Read the first ``limit`` entries of an ``idx`` file of unsigned bytes.

    The header, all big-endian: two zero bytes, the type, the number of dimensions, the size of each.
    Source: http://yann.lecun.com/exdb/mnist/
    """
    rank = 1 + len(entry_shape)
    header_size = 4 + 4 * rank
    content = read_start(path, header_size + limit * math.prod(entry_shape))
    if len(content) < header_size:
        raise DatasetUnavailable(f"{path} ends within its header: get the file anew")
    zero, kind, dimensions = struct.unpack_from(">HBB", content)
    if (zero, kind, dimensions) != (0, IDX_UNSIGNED_BYTE, rank):
        raise DatasetUnavailable(f"{path} is not an idx file of unsigned bytes in {rank} dimensions: get the file anew")
    count, *shape = struct.unpack_from(f">{rank}I", content, 4)
    if tuple(shape) != entry_shape:
        raise DatasetUnavailable(f"{path} holds entries of shape {shape} instead of {list(entry_shape)}")
    if count < limit:
        raise DatasetUnavailable(f"{path} {_too_few(count, limit)}")
    if len(content) < header_size + limit * math.prod(entry_shape):
        raise DatasetUnavailable(f"{path} ends before the {count} entries its header promises: get the file anew")
    # A copy, as a tensor must be able to write to its memory.
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(limit, *entry_shape).copy()


def _cifar10(spec: Cifar10Spec, directory: Path | None) -> Dataset:
    train = [
        _read_cifar10_batch(find_file("cifar10", name, directory), spec.train_limit - i * CIFAR10_BATCH_SIZE)
        for i, name in enumerate(cifar10_train_files(spec.train_limit))
    ]
    test_images, test_labels = _read_cifar10_batch(find_file("cifar10", CIFAR10_TEST, directory), spec.test_limit)
    return Dataset(
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        test_images,
        test_labels,
    )


def _read_cifar10_batch(path: Path, limit: int) -> tuple[Tensor, Tensor]:
    """Read the first ``limit`` rows: a label byte, then 3,072 bytes of red, green and blue 32x32 planes.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html
    """
    count = min(limit, CIFAR10_BATCH_SIZE)
    content = read_start(path, count * CIFAR10_ROW)
    rows, rest = divmod(len(content), CIFAR10_ROW)
    if rest:
        raise DatasetUnavailable(f"{path} ends within image {rows + 1}: get the file anew")
    if rows < count:
        raise DatasetUnavailable(f"{path} {_too_few(rows, count)}")
    table = np.frombuffer(content, dtype=np.uint8).reshape(count, CIFAR10_ROW)
    if table[:, 0].max() > 9:
        raise DatasetUnavailable(f"{path} holds labels above 9, so it is not a CIFAR-10 batch: get the file anew")
    images = torch.from_numpy(table[:, 1:].reshape(count, 3, 32, 32).copy())
    return images, torch.from_numpy(table[:, 0].astype(np.int64))


def _too_few(found: int, wanted: int) -> str:
    return (
        f"holds {found} entries where {wanted} are asked for: get the published file, "
        "or lower train_limit and test_limit"
    )
