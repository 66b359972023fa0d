"""Trained weights as bytes and back. The format is safetensors: data, never a program."""

from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ode_core.models.classifier import DTYPES, Classifier, build_classifier
from ode_core.specs.dataset import DatasetSpec
from ode_core.specs.model import ClassifierSpec


class WeightsMismatch(ValueError):
    """The bytes are not weights of the declared architecture; the message says where they differ."""


def weights_to_bytes(model: nn.Module) -> bytes:
    """Return the model's parameters and buffers as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})


def load_classifier(
    model: ClassifierSpec,
    dataset: DatasetSpec,
    weights: bytes,
    *,
    precision: Literal["float32", "float64"] | None = None,
    device: torch.device | None = None,
) -> Classifier:
    """Return the classifier with the given weights, ready for evaluation.

    Args:
        model: the architecture, presets expanded.
        dataset: the data set it was trained on.
        weights: what ``weights_to_bytes`` made.
        precision: what to compute in; None takes the weights' own.
        device: where to compute; None is the CPU.

    Raises:
        WeightsMismatch: names, shapes or types do not fit the architecture.
    """
    classifier = build_classifier(model, dataset)
    tensors, stored = _read(weights, classifier)
    # Loaded as they are and only then converted: through float32, float64 weights would lose digits.
    classifier.to(dtype=stored).load_state_dict(tensors)
    classifier.to(device=device, dtype=stored if precision is None else DTYPES[precision])
    return classifier.eval().requires_grad_(False)


def load_weights(classifier: Classifier, weights: bytes) -> None:
    """Give a classifier the weights that ``weights_to_bytes`` made of one of its architecture and precision.

    Raises:
        WeightsMismatch: names, shapes or types do not fit the classifier.
    """
    tensors, stored = _read(weights, classifier)
    if stored != classifier.dtype:
        raise WeightsMismatch(f"the weights are {stored}, the model computes in {classifier.dtype}")
    classifier.load_state_dict(tensors)


def _read(weights: bytes, classifier: Classifier) -> tuple[dict[str, Tensor], torch.dtype]:
    """Return the weights by name, and their type, if they are those of the classifier's architecture."""
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise WeightsMismatch(f"these bytes are not a safetensors file: {error}") from None
    expected = classifier.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise WeightsMismatch(f"weights are missing: {', '.join(missing)}")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise WeightsMismatch(f"weights the architecture does not have: {', '.join(unknown)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsMismatch(
                f"{name} has shape {list(tensor.shape)}, the architecture needs {list(expected[name].shape)}"
            )
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.float64}:
        raise WeightsMismatch("all weights must be float32, or all float64")
    return tensors, dtypes.pop()
