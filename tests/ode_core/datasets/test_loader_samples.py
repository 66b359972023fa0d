from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ode_core.datasets.loader_samples import UnusableLoader, labelled_samples

INPUTS, LABELS = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])


def test_the_first_samples_are_taken_in_the_loaders_order() -> None:
    inputs, labels = labelled_samples(DataLoader(TensorDataset(INPUTS, LABELS), batch_size=2), 3)

    assert torch.equal(inputs, INPUTS[:3])
    assert torch.equal(labels, LABELS[:3])


def test_a_loader_with_fewer_gives_what_it_has() -> None:
    assert len(labelled_samples([(INPUTS, LABELS)], 100)[1]) == 6


def test_labels_of_yes_and_no_are_classes() -> None:
    assert labelled_samples([(INPUTS, LABELS.bool())], 6)[1].tolist() == LABELS.tolist()


BAD: dict[str, tuple[Any, str]] = {
    "empty": ([], "gives no samples"),
    "empty batches": ([(INPUTS[:0], LABELS[:0])], "gives no samples"),
    "used up": (iter([]), "at its end"),
    "dictionaries": ([{"image": INPUTS, "label": LABELS}], "not dictionaries with"),
    "a data set": (TensorDataset(INPUTS, LABELS), "put it into a DataLoader"),
    "tensors": (INPUTS, "for a single batch"),
    "a pair": ((INPUTS, LABELS), "for a single batch"),
    "inputs alone": ([INPUTS], "it gives Tensor"),
    "three things": ([(INPUTS, LABELS, LABELS)], r"it gives \['Tensor', 'Tensor', 'Tensor'\]"),
    "targets": ([(INPUTS, LABELS.float())], "regression is not audited"),
    "one-hot labels": ([(INPUTS, torch.eye(2)[LABELS].long())], "argmax"),
    "other lengths": ([(INPUTS, LABELS[:3])], "3 labels"),
    "other shapes": ([(INPUTS, LABELS), (INPUTS[:, :1], LABELS)], "different shapes"),
}


@pytest.mark.parametrize(("loader", "words"), BAD.values(), ids=BAD.keys())
def test_what_gives_no_labelled_samples_is_refused(loader: Any, words: str) -> None:
    with pytest.raises(UnusableLoader, match=words):
        labelled_samples(loader, 10)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_inputs_that_are_not_finite_are_refused(number: float) -> None:
    inputs = INPUTS.clone()
    inputs[1, 0] = number
    with pytest.raises(UnusableLoader, match="NaN or infinite"):
        labelled_samples([(inputs, LABELS)], 10)


def test_no_samples_are_not_asked_for() -> None:
    with pytest.raises(UnusableLoader, match="at least 1"):
        labelled_samples([(INPUTS, LABELS)], 0)
