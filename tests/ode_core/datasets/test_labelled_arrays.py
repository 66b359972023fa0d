from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ode_core.datasets.files import DatasetUnavailable
from ode_core.datasets.labelled_arrays import ArraysRefused, LabelledArrays, labelled_arrays
from ode_core.datasets.load import Dataset, load_dataset
from ode_core.specs import UploadedFacts, UploadedSpec


def made(inputs, labels, test=None, fraction=0.2, seed=0):
    return labelled_arrays((inputs, labels), test, test_fraction=fraction, split_seed=seed)


def numbered(count, classes=3):
    """Inputs that tell which sample they are."""
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2), np.arange(count) % classes


@given(
    counts=st.lists(st.integers(10, 60), min_size=2, max_size=5),
    fraction=st.floats(0.1, 0.5),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_drawn_test_part_loses_no_sample_and_has_every_class_in_proportion(counts, fraction, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    inputs = np.arange(len(labels), dtype=np.float64)[:, None]
    if sum(round(fraction * count) for count in counts) < 4:
        return
    split = made(inputs, labels, fraction=fraction, seed=seed)
    drawn = np.concatenate([split.train_inputs, split.test_inputs])[:, 0].astype(int)
    assert sorted(drawn.tolist()) == list(range(len(labels)))
    assert np.array_equal(labels[drawn], np.concatenate([split.train_labels, split.test_labels]))
    for label, count in enumerate(counts):
        assert abs(int((split.test_labels == label).sum()) - fraction * count) <= 0.5


def test_the_split_follows_its_seed_and_does_not_keep_the_files_order():
    first, again, other = (made(*numbered(60), seed=seed).fingerprint for seed in (1, 1, 2))
    assert first == again != other
    sorted_labels = np.repeat([0, 1], 50)
    assert set(made(numbered(100)[0], sorted_labels).test_labels[:10].tolist()) == {0, 1}


def test_given_test_samples_stay_as_they_are():
    train, test = numbered(12), numbered(6)
    split = made(*train, test=test)
    assert np.array_equal(split.train_inputs, train[0])
    assert np.array_equal(split.test_inputs, test[0])
    assert split.test_labels.tolist() == test[1].tolist()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", "uint8"),
        ("bool", "uint8"),
        ("int8", "float32"),
        ("uint16", "float32"),
        (">i2", "float32"),
        ("int32", "float64"),
        ("int64", "float64"),
        ("float16", "float32"),
        ("float32", "float32"),
        (">f4", "float32"),
        ("float64", "float64"),
    ],
)
def test_no_type_loses_a_digit(given, kept):
    rng = np.random.default_rng(0)
    limits = np.iinfo(given) if np.dtype(given).kind in "iu" else None
    low, high = (0, 2) if limits is None else (max(limits.min, -(2**53)), min(limits.max, 2**53))
    inputs = rng.random((20, 3)) if np.dtype(given).kind == "f" else rng.integers(low, high, (20, 3), dtype=np.int64)
    inputs = inputs.astype(given)
    labels = np.arange(20) % 2
    split = made(inputs, labels, test=(inputs, labels))
    assert split.train_inputs.dtype == kept
    assert np.array_equal(split.train_inputs.astype(np.float64), inputs.astype(np.float64))
    assert split.train_labels.dtype == np.int64


X, Y = numbered(12)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X[:, 0], Y, r"inputs has shape \[12\]: it must be \(samples, features\)"),
        (X.reshape(12, 2, 1, 1, 1), Y, "inputs has shape"),
        (X[:, :0], Y, "nothing in it"),
        (X[:0], Y[:0], "nothing in it"),
        (X, Y[:11], "one label for each of the 12 samples"),
        (X, Y[:, None], "one label for each"),
        (X, Y.astype(float), "labels has type float64: labels must be integers"),
        (X, Y - 1, "the label -1"),
        (X, Y + 1, "no training sample has the label 0"),
        (X, np.where(Y == 1, 2, Y), "no training sample has the label 1"),
        (X, np.zeros(12, int), "no training sample has the label 1"),
        (X, Y + 2**40, "10,000 classes"),
        (X.astype(complex), Y, "inputs has type complex128"),
        (X.astype(str), Y, "inputs has type <U"),
        (X.astype(np.longdouble), Y, "inputs has type"),
        (np.where(X == 7, np.nan, X), Y, "not finite in sample 3"),
        (np.where(X == 7, -np.inf, X), Y, "not finite in sample 3"),
        (X.astype(float) * 1e38, Y, "which float32 does not hold"),
        (X.astype(np.int64) + 2**60, Y, r"beyond 2\^53"),
        (np.full((12, 2), 2**64 - 1, dtype=np.uint64), Y, r"beyond 2\^53"),
        (X[:3], Y[:3], "0 test samples|samples: at least 4"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_reason(inputs, labels, message):
    with pytest.raises(ArraysRefused, match=message):
        made(inputs, labels)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ((np.zeros((6, 3), np.float32), Y[:6]), r"one of test_inputs \[3\]"),
        ((X[:6], Y[:5]), "test_labels has shape"),
        ((X[:6], Y[:6] + 1), "a test sample has the label 3"),
        ((X[:3], Y[:3]), "there are 3 test samples"),
        ((np.full((6, 2), np.nan), Y[:6]), "test_inputs has a number that is not finite"),
    ],
)
def test_a_test_part_that_does_not_fit_is_refused(test, message):
    with pytest.raises(ArraysRefused, match=message):
        made(X, Y, test=test)


def test_stored_bytes_give_the_same_arrays_and_the_fingerprint_is_that_of_the_tensors():
    arrays = made(*numbered(30))
    again = LabelledArrays.from_bytes(arrays.to_bytes())
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(astuple(arrays), astuple(again), strict=True)
    )
    tensors = Dataset(*(torch.from_numpy(part) for part in astuple(arrays)))
    assert arrays.fingerprint == again.fingerprint == tensors.fingerprint


def facts(arrays, **changes):
    values = {
        "input_shape": arrays.train_inputs.shape[1:],
        "classes": arrays.classes,
        "input_scale": 1.0,
        "train_samples": len(arrays.train_labels),
        "test_samples": len(arrays.test_labels),
        "sha256": arrays.fingerprint,
    }
    return UploadedFacts(**values | changes)


def test_a_job_gets_the_uploaded_arrays():
    arrays = made(*numbered(30))
    spec = UploadedSpec(name="mine", version=1, facts=facts(arrays))
    dataset = load_dataset(spec, None, lambda asked: arrays.to_bytes() if asked == spec else b"")
    assert np.array_equal(dataset.train_inputs.numpy(), arrays.train_inputs)
    assert dataset.fingerprint == arrays.fingerprint


@pytest.mark.parametrize("content", [b"", b"garbage", made(X, Y + 0, test=(X, Y)).to_bytes()[:-8]])
def test_damaged_bytes_are_refused(content):
    spec = UploadedSpec(name="mine", version=1, facts=facts(made(*numbered(30))))
    with pytest.raises(DatasetUnavailable, match="mine version 1 is damaged"):
        load_dataset(spec, None, lambda asked: content)


def test_other_data_than_the_job_was_accepted_with_is_refused():
    arrays = made(*numbered(30))
    spec = UploadedSpec(name="mine", version=1, facts=facts(arrays, sha256="0" * 64))
    with pytest.raises(DatasetUnavailable, match="not the data that the job was accepted with"):
        load_dataset(spec, None, lambda asked: arrays.to_bytes())


def test_without_a_server_it_is_said_where_the_data_is():
    with pytest.raises(DatasetUnavailable, match="in a server's database"):
        load_dataset(UploadedSpec(name="mine"), None)
