import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from ode_core.training.checkpoint import Checkpoint, CheckpointDamaged

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.integers(0, 2**60), st.dictionaries(st.text(), json_values, max_size=5))
def test_iteration_and_metadata_come_back_as_they_were(iteration: int, metadata: dict[str, Any]) -> None:
    restored = Checkpoint.from_bytes(Checkpoint(iteration, {}, metadata).to_bytes())
    assert restored.iteration == iteration
    assert restored.metadata == metadata


def test_tensors_come_back_bit_by_bit_in_their_types() -> None:
    tensors = {
        "float32": torch.tensor([0.1, -0.0, torch.inf, torch.nan]),
        "float64": torch.tensor([[0.1], [1e-300]], dtype=torch.float64),
        "counter": torch.tensor(7),
        "none at all": torch.empty(0, 3),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    }
    restored = Checkpoint.from_bytes(Checkpoint(3, tensors, {}).to_bytes()).tensors
    assert restored.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert restored[name].dtype == tensor.dtype
        assert restored[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()


def test_the_bytes_are_a_safetensors_file_for_everyone() -> None:
    data = Checkpoint(3, {"weight": torch.ones(2)}, {"a": 1}).to_bytes()
    assert torch.equal(load(data)["weight"], torch.ones(2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_json_is_not_written(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Checkpoint(3, {}, {"loss": value}).to_bytes()


def whole_checkpoint() -> bytes:
    return Checkpoint(3, {"weight": torch.ones(64)}, {"a": 1}).to_bytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff" * 64, id="noise"),
        pytest.param(whole_checkpoint()[:-1], id="an end cut off"),
        pytest.param(whole_checkpoint()[:20], id="a start only"),
        pytest.param(pickle.dumps({"iteration": 3}), id="a pickle"),
        pytest.param(save({"weight": torch.ones(2)}), id="tensors without a header"),
        pytest.param(save({"weight": torch.ones(2)}, metadata={"odeness": "[1, 2]"}), id="a header of another form"),
        pytest.param(save({}, metadata={"odeness": '{"iteration": 3}'}), id="a header without metadata"),
        pytest.param(save({}, metadata={"odeness": '{"iteration": null, "metadata": {}}'}), id="no iteration"),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointDamaged, match="not a checkpoint"):
        Checkpoint.from_bytes(data)
