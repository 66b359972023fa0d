import json

import pytest
import torch
from safetensors.torch import save

from ode_core.models.classifier import build_classifier
from ode_core.specs import (
    ClassifierSpec,
    ConcentricSpheresSpec,
    Conv1dField,
    Conv2dField,
    ConvStem,
    DatasetSpec,
    DigitsSpec,
    FieldSpec,
    GrowingEllipsesField,
    LinearStem,
    MlpField,
    StemSpec,
    XorSpec,
)
from ode_core.specs.weights_file import WeightsRefused, read_header, weight_shapes

EXPECTED = {"a.weight": (2, 3), "a.bias": (2,)}
GOOD = {"a.weight": torch.ones(2, 3), "a.bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("field", "stem", "dataset"),
    [
        (Conv1dField(channels=4, kernel=5, time_dependent=True), None, ConcentricSpheresSpec(dimension=3)),
        (Conv1dField(channels=4), ConvStem(channels=3), DigitsSpec()),
        (Conv2dField(channels=4, time_dependent=True), ConvStem(channels=2), DigitsSpec()),
        (MlpField(hidden=(5, 7, 6), time_dependent=True), LinearStem(features=3), DigitsSpec()),
        (MlpField(hidden=(5,)), None, ConcentricSpheresSpec()),
        (GrowingEllipsesField(), None, XorSpec()),
    ],
)
def test_an_architectures_weights_are_known_without_building_it(
    field: FieldSpec, stem: StemSpec | None, dataset: DatasetSpec
) -> None:
    model = ClassifierSpec(field=field, stem=stem)
    built = build_classifier(model, dataset).state_dict()
    known = weight_shapes(model, dataset.input_shape, dataset.classes)
    assert known == {name: tuple(tensor.shape) for name, tensor in built.items()}


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_header_says_where_the_numbers_are(precision: str) -> None:
    tensors = {name: tensor.to(getattr(torch, precision)) for name, tensor in GOOD.items()}
    data = save(tensors)
    header = read_header(data, len(data), EXPECTED)
    assert header.precision == precision
    begin, stop = header.places["a.weight"]
    values = torch.frombuffer(
        bytearray(data[header.begin + begin : header.begin + stop]), dtype=getattr(torch, precision)
    )
    assert values.tolist() == [1.0] * 6


def test_all_tensors_that_differ_are_listed() -> None:
    data = save({"a.weight": torch.ones(3, 2), "b": torch.ones(1)})
    with pytest.raises(WeightsRefused) as refused:
        read_header(data, len(data), EXPECTED)
    message = str(refused.value)
    assert "Missing: a.bias [2]." in message
    assert "Not of this architecture: b." in message
    assert "a.weight has shape [3, 2] instead of [2, 3]." in message


def framed(header: object, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def one(**facts: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | facts}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04" + b"\0" * 100,
        (2**63).to_bytes(8, "little") + b"{}",
        framed(b"[" * 100_000),
        framed(b"\xff\xfe"),
        framed([]),
        framed({"a": 3}),
        framed(one(shape=[-1]), b"\0" * 4),
        framed(one(shape=[True]), b"\0" * 4),
        framed(one(data_offsets=[0, 8]), b"\0" * 8),
        framed(one(data_offsets=[4, 8]), b"\0" * 8),
        framed(one(), b"\0" * 5),
        framed(one(), b"\0" * 3),
        framed(one(dtype="I32"), b"\0" * 4),
        framed(one(shape=[10**30]), b"\0" * 4),
    ],
)
def test_what_is_no_such_file_is_refused(data: bytes) -> None:
    with pytest.raises(WeightsRefused):
        read_header(data, len(data), {"a": (1,)})


def test_weights_of_mixed_precision_are_refused() -> None:
    data = save(GOOD | {"a.bias": torch.zeros(2, dtype=torch.float64)})
    with pytest.raises(WeightsRefused, match="all must be float32"):
        read_header(data, len(data), EXPECTED)
