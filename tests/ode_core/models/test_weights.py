import json

import pytest
import torch
from safetensors.torch import load, save

from ode_core.models.classifier import build_classifier
from ode_core.models.weights import WeightsMismatch, load_classifier, weights_to_bytes
from ode_core.specs import ClassifierSpec, Conv2dField, DigitsSpec, SolverSpec

SPEC = ClassifierSpec(field=Conv2dField(channels=4))
EULER = SolverSpec(method="euler", steps=3)


def model(dtype: torch.dtype = torch.float32):
    return build_classifier(SPEC, DigitsSpec(), seed=5).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_read_back_is_the_model_bit_for_bit(dtype):
    original = model(dtype)
    with torch.no_grad():
        original.head[1].weight += torch.rand_like(original.head[1].weight) / 3  # digits beyond float32
    loaded = load_classifier(SPEC, DigitsSpec(), weights_to_bytes(original))
    for a, b in zip(original.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded(inputs, EULER), original(inputs, EULER))
    assert loaded.dtype == dtype
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_model_can_be_read_into_another_precision():
    data = weights_to_bytes(model(torch.float32))
    double = load_classifier(SPEC, DigitsSpec(), data, precision="float64")
    assert double.dtype == torch.float64
    assert torch.equal(double.head[1].weight.float(), model().head[1].weight)


def test_the_bytes_are_a_safetensors_file_of_the_named_parameters():
    data = weights_to_bytes(model())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert set(header) == {name for name, _ in model().named_parameters()}


def changed(**changes: torch.Tensor | None) -> bytes:
    tensors = load(weights_to_bytes(model()))
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    return save(tensors)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04\x95" + bytes(100), "not a safetensors file"),
        (weights_to_bytes(model())[:-1], "not a safetensors file"),
        (changed(head__1__bias=None), "weights are missing: head.1.bias"),
        (changed(extra=torch.zeros(1)), "does not have: extra"),
        (changed(head__1__bias=torch.zeros(11)), r"head.1.bias has shape \[11\], the architecture needs \[10\]"),
        (changed(head__1__bias=torch.zeros(10).double()), "all weights must be"),
        (changed(head__1__bias=torch.zeros(10, dtype=torch.int64)), "all weights must be"),
    ],
    ids=["empty", "pickle", "cut", "missing", "unknown", "shape", "mixed", "integer"],
)
def test_weights_that_do_not_fit_are_refused_with_the_reason(data, message):
    with pytest.raises(WeightsMismatch, match=message):
        load_classifier(SPEC, DigitsSpec(), data)
