import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ode_core.datasets import load
from ode_core.datasets.files import DatasetUnavailable, check_dataset_files, find_file
from ode_core.datasets.load import Dataset, load_dataset
from ode_core.specs import Cifar10Spec, ConcentricSpheresSpec, DigitsSpec, MnistSpec, ThreeMinimaSpec, XorSpec

PACKINGS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


# ---------------------------------------------------------------- digits


def test_digits_are_scikit_learns_split_without_loss():
    dataset = load_dataset(DigitsSpec(), None)
    images, labels = load_digits(return_X_y=True)
    rows = np.concatenate([dataset.train_inputs.flatten(1).numpy(), dataset.test_inputs.flatten(1).numpy()])
    both = np.concatenate([dataset.train_labels.numpy(), dataset.test_labels.numpy()])
    together = np.column_stack([rows, both]).astype(float)
    expected = np.column_stack([images, labels])
    assert np.array_equal(np.unique(together, axis=0), np.unique(expected, axis=0))
    assert len(together) == len(expected) == 1797
    assert dataset.train_inputs.dtype == torch.uint8
    assert dataset.train_inputs.shape[1:] == (1, 8, 8)
    assert int(dataset.train_inputs.max()) == 16


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_every_digit_is_held_out_in_proportion(fraction):
    dataset = load_dataset(DigitsSpec(test_fraction=fraction), None)
    train, test = (labels.bincount(minlength=10) for labels in (dataset.train_labels, dataset.test_labels))
    assert bool(((test - fraction * (train + test)).abs() <= 1).all())
    assert abs(len(dataset.test_labels) - fraction * 1797) <= 1


def test_the_split_follows_its_seed():
    first, again, other = (load_dataset(DigitsSpec(split_seed=seed), None).fingerprint for seed in (1, 1, 2))
    assert first == again != other


# ---------------------------------------------------------------- spheres


@pytest.mark.parametrize("dimension", [2, 3, 10, 900])
def test_spheres_lie_in_their_shells_a_quarter_a_half_a_quarter(dimension):
    spec = ConcentricSpheresSpec(dimension=dimension)
    dataset = load_dataset(spec, None)
    assert dataset.train_inputs.shape == (2000, dimension)
    assert dataset.test_inputs.shape == (1000, dimension)
    for inputs, labels in (
        (dataset.train_inputs, dataset.train_labels),
        (dataset.test_inputs, dataset.test_labels),
    ):
        radii = inputs.double().norm(dim=1)
        eps = 1e-6  # float32 coordinates
        shells = [
            ((radii >= low - eps) & (radii <= high + eps)) for low, high in ((0.10, 0.15), (0.25, 0.30), (0.40, 0.45))
        ]
        inner, middle, outer = shells
        assert [int(shell.sum()) for shell in shells] == [len(radii) // 4, len(radii) // 2, len(radii) // 4]
        assert torch.equal(labels == 1, middle)
        assert torch.equal(labels == 0, inner | outer)


@pytest.mark.parametrize("dimension", [2, 3, 10, 900])
@pytest.mark.parametrize(("low", "high"), [(0.10, 0.15), (0.25, 0.30), (0.40, 0.45)])
def test_radii_follow_the_papers_law_in_each_shell(dimension, low, high):
    dataset = load_dataset(ConcentricSpheresSpec(dimension=dimension, train_samples=8000, test_samples=4), None)
    radii = dataset.train_inputs.double().norm(dim=1)
    radii = radii[(radii > low - 0.01) & (radii < high + 0.01)]
    # r = low + (high - low) U^(1/D), so ((r - low) / (high - low))^D is uniform; Kolmogorov's distance of n uniform
    # numbers exceeds 1.95 / sqrt(n) once in a thousand draws, and the seed is fixed.
    u = ((radii - low) / (high - low)).clamp(min=0).pow(dimension).sort().values
    n = len(u)
    assert n >= 2000
    distance = (u - torch.arange(n, dtype=torch.float64) / n).abs().max()
    assert float(distance) < 1.95 / n**0.5


@pytest.mark.parametrize("dimension", [2, 3, 10, 900])
@pytest.mark.parametrize("label", [0, 1])
def test_directions_are_uniform_in_each_class(dimension, label):
    spec = ConcentricSpheresSpec(dimension=dimension, train_samples=20_000, test_samples=4, seed=1)
    dataset = load_dataset(spec, None)
    points = dataset.train_inputs.double()[dataset.train_labels == label]
    directions = points / points.norm(dim=1, keepdim=True)
    n = len(directions)
    # Mean 0 and covariance I / D. An entry of the mean has the standard error sqrt(1 / D / n), one of the covariance
    # at most 2 / D / sqrt(n); the largest of D (D + 1) / 2 normal numbers is above 6 once in a thousand draws.
    assert float(directions.mean(dim=0).abs().max()) < 6 * (1 / dimension / n) ** 0.5
    covariance = directions.T @ directions / n
    difference = covariance - torch.eye(dimension).double() / dimension
    assert float(difference.abs().max()) < 6 * 2 / dimension / n**0.5


@pytest.mark.parametrize(
    ("spec", "inputs", "labels"),
    [
        (
            ConcentricSpheresSpec(dimension=3, train_samples=4, test_samples=4),
            [
                [0.23664153, -0.17583817, -0.31618339],
                [-0.05264058, 0.03553418, 0.12814494],
                [-0.03932887, -0.22395860, -0.13162865],
                [-0.06918538, 0.00458731, -0.25808555],
            ],
            [0, 0, 1, 1],
        ),
        (
            ThreeMinimaSpec(train_samples=4, test_samples=4),
            [[0.91088504, -0.92085314], [-0.87707943, -1.93388951], [1.43981075, 1.65102232], [0.81990731, 0.91798621]],
            [1, 1, 0, 0],
        ),
    ],
)
def test_version_1_of_a_generated_set_goes_on_meaning_the_same_numbers(spec, inputs, labels):
    # What this version was when jobs were stored with it. If a new numpy draws otherwise, its numbers are version 2.
    dataset = load_dataset(spec, None)
    assert np.allclose(dataset.train_inputs.numpy(), inputs, rtol=0, atol=1e-6)
    assert dataset.train_labels.tolist() == labels


def test_train_and_test_points_are_different_draws_of_one_seed():
    dataset = load_dataset(ConcentricSpheresSpec(train_samples=500, test_samples=500), None)
    assert not torch.equal(dataset.train_inputs, dataset.test_inputs)
    together = torch.cat([dataset.train_inputs, dataset.test_inputs])
    assert len(torch.unique(together, dim=0)) == 1000
    prints = [load_dataset(ConcentricSpheresSpec(seed=seed), None).fingerprint for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("samples", [4, 5, 6, 7, 101])
def test_odd_numbers_of_points_are_complete(samples):
    dataset = load_dataset(ConcentricSpheresSpec(train_samples=samples, test_samples=4), None)
    assert dataset.train_inputs.shape == (samples, 2)
    assert int((dataset.train_labels == 0).sum()) >= 2


# ---------------------------------------------------------------- three minima, XOR


def test_three_minima_has_its_sizes_and_points_all_over_the_papers_rectangle():
    spec = ThreeMinimaSpec(train_samples=3000, test_samples=700)
    dataset = load_dataset(spec, None)
    assert dataset.train_inputs.shape == (3000, 2)
    assert dataset.test_inputs.shape == (700, 2)
    assert dataset.train_inputs.dtype == torch.float32
    assert dataset.train_labels.dtype == torch.int64
    low, high = torch.tensor([-1.0, -2.0]), torch.tensor([2.0, 2.0])
    for inputs in (dataset.train_inputs, dataset.test_inputs):
        u = ((inputs - low) / (high - low)).double()
        assert bool(((u >= 0) & (u <= 1)).all())
        n = len(u)
        for column in u.T:
            distance = (column.sort().values - torch.arange(n, dtype=torch.float64) / n).abs().max()
            assert float(distance) < 1.95 / n**0.5  # Kolmogorov, once in a thousand draws; the seed is fixed
    assert set(dataset.train_labels.tolist()) == set(dataset.test_labels.tolist()) == {0, 1, 2}


def test_three_minima_follows_its_seed():
    prints = [
        load_dataset(ThreeMinimaSpec(train_samples=20, test_samples=20, seed=seed), None).fingerprint
        for seed in (1, 1, 2)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_xor_is_its_four_points_for_training_and_for_the_test():
    dataset = load_dataset(XorSpec(), None)
    for inputs, labels in (
        (dataset.train_inputs, dataset.train_labels),
        (dataset.test_inputs, dataset.test_labels),
    ):
        table = {(int(x), int(y)): label for (x, y), label in zip(inputs.tolist(), labels.tolist(), strict=True)}
        assert table == {(x, y): x ^ y for x in (0, 1) for y in (0, 1)}
        assert len(labels) == 4


# ---------------------------------------------------------------- MNIST


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


class Mnist:
    """Small files of the published format, 12 training and 7 test images."""

    def __init__(self, folder: Path, packing: str = "") -> None:
        rng = np.random.default_rng(0)
        self.arrays = {
            "train-images-idx3-ubyte": rng.integers(0, 256, (12, 28, 28)),
            "train-labels-idx1-ubyte": rng.integers(0, 10, 12),
            "t10k-images-idx3-ubyte": rng.integers(0, 256, (7, 28, 28)),
            "t10k-labels-idx1-ubyte": rng.integers(0, 10, 7),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays.items():
            (folder / f"{name}{packing}").write_bytes(PACKINGS[packing](idx(array)))


SMALL_MNIST = MnistSpec(train_limit=12, test_limit=7)


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_mnist_is_read_from_plain_and_packed_files(tmp_path, packing):
    published = Mnist(tmp_path / "mnist", packing)
    check_dataset_files(SMALL_MNIST, tmp_path)
    dataset = load_dataset(SMALL_MNIST, tmp_path)
    assert dataset.train_inputs.shape == (12, 1, 28, 28)
    assert dataset.train_inputs.dtype == torch.uint8
    assert dataset.train_labels.dtype == torch.int64
    arrays = published.arrays
    assert np.array_equal(dataset.train_inputs[:, 0].numpy(), arrays["train-images-idx3-ubyte"])
    assert np.array_equal(dataset.test_inputs[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])
    assert dataset.train_labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert dataset.test_labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


def test_limits_take_the_first_images(tmp_path):
    Mnist(tmp_path)  # the files may also lie directly in the folder
    whole = load_dataset(SMALL_MNIST, tmp_path)
    few = load_dataset(MnistSpec(train_limit=5, test_limit=1), tmp_path)
    assert torch.equal(few.train_inputs, whole.train_inputs[:5])
    assert torch.equal(few.test_labels, whole.test_labels[:1])


def replace(folder: Path, name: str, content: bytes) -> None:
    (folder / "mnist" / name).write_bytes(content)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IMAGES, b"", "ends within its header"),
        (IMAGES, b"\0\0\x08", "ends within its header"),
        (IMAGES, b"<html>404 Not Found</html>" * 10, "not an idx file"),
        (IMAGES, struct.pack(">HBB3I", 0, 0x0D, 3, 12, 28, 28) + bytes(12 * 784 * 4), "not an idx file"),
        (IMAGES, idx(np.zeros(12)) + bytes(20), "not an idx file of unsigned bytes in 3"),
        (IMAGES, idx(np.zeros((12, 20, 20))), r"shape \[20, 20\] instead of \[28, 28\]"),
        (IMAGES, struct.pack(">HBB3I", 0, 8, 3, 12, 2**32 - 1, 2**32 - 1), "instead of"),
        (IMAGES, idx(np.zeros((11, 28, 28))), "holds 11 entries where 12 are asked for"),
        (IMAGES, idx(np.zeros((12, 28, 28)))[:-1], "ends before the 12 entries its header promises"),
        (LABELS, idx(np.full(12, 10)), "labels above 9"),
        (LABELS, idx(np.zeros(3)), "holds 3 entries where 12"),
    ],
)
def test_a_damaged_mnist_file_is_refused_with_its_name_and_the_reason(tmp_path, name, content, message):
    Mnist(tmp_path / "mnist")
    replace(tmp_path, name, content)
    with pytest.raises(DatasetUnavailable, match=f"{name}.*{message}"):
        load_dataset(SMALL_MNIST, tmp_path)


@pytest.mark.parametrize(("packing", "damage"), [(".gz", "cut"), (".gz", "noise"), (".xz", "cut"), (".xz", "noise")])
def test_a_damaged_packed_file_is_refused(tmp_path, packing, damage):
    Mnist(tmp_path / "mnist", packing)
    path = tmp_path / "mnist" / f"{IMAGES}{packing}"
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] if damage == "cut" else content[:middle] + bytes(200) + content[middle + 200 :])
    with pytest.raises(DatasetUnavailable, match=f"{IMAGES}.*get the file anew"):
        load_dataset(SMALL_MNIST, tmp_path)


# ---------------------------------------------------------------- CIFAR-10


def cifar_rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(0, 10, count), rng.integers(0, 256, (count, 3072))]).astype(np.uint8)


@pytest.fixture
def cifar_batch_size(monkeypatch):
    """Batches of 6 images instead of 10,000, in the same format."""
    monkeypatch.setattr("ode_core.datasets.files.CIFAR10_BATCH_SIZE", 6)
    monkeypatch.setattr(load, "CIFAR10_BATCH_SIZE", 6)
    return 6


def write_cifar(folder: Path, packing: str, size: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    batches = {name: cifar_rows(size, seed) for seed, name in enumerate(names)}
    for name, rows in batches.items():
        (folder / f"{name}{packing}").write_bytes(PACKINGS[packing](rows.tobytes()))
    return batches


@pytest.mark.parametrize("packing", list(PACKINGS))
@pytest.mark.parametrize("folder", ["cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "."])
def test_cifar10_is_read_from_plain_and_packed_files(tmp_path, cifar_batch_size, packing, folder):
    batches = write_cifar(tmp_path / folder, packing, cifar_batch_size)
    spec = Cifar10Spec(train_limit=30, test_limit=6)
    check_dataset_files(spec, tmp_path)
    dataset = load_dataset(spec, tmp_path)
    rows = np.concatenate([batches[f"data_batch_{i}.bin"] for i in range(1, 6)])
    assert dataset.train_labels.tolist() == rows[:, 0].tolist()
    assert np.array_equal(dataset.train_inputs.flatten(1).numpy(), rows[:, 1:])
    assert np.array_equal(dataset.test_inputs.flatten(1).numpy(), batches["test_batch.bin"][:, 1:])
    assert dataset.train_inputs.shape == (30, 3, 32, 32)
    # The first 1,024 bytes are the red plane, row by row.
    assert int(dataset.train_inputs[0, 0, 1, 0]) == rows[0, 1 + 32]
    assert int(dataset.train_inputs[0, 1, 0, 0]) == rows[0, 1 + 1024]


def test_only_the_files_that_a_limit_needs_are_asked_for(tmp_path, cifar_batch_size):
    write_cifar(tmp_path, "", cifar_batch_size)
    for i in (3, 4, 5):
        (tmp_path / f"data_batch_{i}.bin").unlink()
    dataset = load_dataset(Cifar10Spec(train_limit=11, test_limit=2), tmp_path)
    assert len(dataset.train_labels) == 11
    with pytest.raises(DatasetUnavailable, match=r"data_batch_3\.bin"):
        check_dataset_files(Cifar10Spec(train_limit=13, test_limit=2), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds 0 entries where 6"),
        (cifar_rows(5, 0).tobytes(), "holds 5 entries where 6"),
        (cifar_rows(6, 0).tobytes()[:-1], "ends within image 6"),
        (bytes([255]) * 3073 * 6, "labels above 9"),
    ],
)
def test_a_damaged_cifar10_file_is_refused_with_its_name_and_the_reason(tmp_path, cifar_batch_size, content, message):
    write_cifar(tmp_path, "", cifar_batch_size)
    (tmp_path / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(DatasetUnavailable, match=f"data_batch_1.bin.*{message}"):
        load_dataset(Cifar10Spec(train_limit=12, test_limit=6), tmp_path)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("spec", "name"), [(MnistSpec(), "train-images-idx3-ubyte"), (Cifar10Spec(), "data_batch_1.bin")]
)
def test_a_missing_file_is_named_with_its_place_and_the_remedy(tmp_path, spec, name):
    for act in (check_dataset_files, load_dataset):
        with pytest.raises(DatasetUnavailable) as caught:
            act(spec, tmp_path)
        message = str(caught.value)
        assert name in message
        assert str(tmp_path / spec.kind) in message
        assert "ODENESS_DATASETS_DIR" in message


def test_without_a_directory_the_setting_is_named():
    with pytest.raises(DatasetUnavailable, match="ODENESS_DATASETS_DIR"):
        check_dataset_files(MnistSpec(), None)


@pytest.mark.parametrize("spec", [DigitsSpec(), ConcentricSpheresSpec(), ThreeMinimaSpec(), XorSpec()])
def test_data_sets_without_files_are_always_available(spec):
    check_dataset_files(spec, None)


def test_a_plain_file_is_preferred_to_a_packed_one(tmp_path):
    for name in ("test_batch.bin.xz", "test_batch.bin"):
        (tmp_path / name).write_bytes(b"")
    assert find_file("cifar10", "test_batch.bin", tmp_path).name == "test_batch.bin"


def test_a_folder_in_a_files_place_is_no_file(tmp_path):
    (tmp_path / "test_batch.bin").mkdir()
    with pytest.raises(DatasetUnavailable):
        find_file("cifar10", "test_batch.bin", tmp_path)


def test_the_fingerprint_tells_data_apart_by_content_shape_and_order():
    x, y = torch.arange(12, dtype=torch.uint8).reshape(3, 4), torch.tensor([0, 1, 0])
    prints = {
        Dataset(x, y, x, y).fingerprint,
        Dataset(x.reshape(3, 2, 2), y, x, y).fingerprint,
        Dataset(x.flip(0), y, x, y).fingerprint,
        Dataset(x, y.flip(0) + 1, x, y).fingerprint,
        Dataset(x.float(), y, x, y).fingerprint,
    }
    assert len(prints) == 5
    assert Dataset(x.clone(), y, x, y).fingerprint in prints
