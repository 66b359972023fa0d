"""Tensors, bodies and codings: what is written is read back, and what does not add up is refused."""

import gzip
import re
import struct
import zlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from api.content_coding import packed, preferred_coding, unpacked
from api.inference.micro_batcher import MicroBatcher
from api.inference.prediction_call import AutoSolver
from api.inference.prediction_request import AUTO_ALONE
from api.inference_protocol.request import parse_infer_request
from api.inference_protocol.solver_parameters import asked_solver
from api.inference_protocol.tensors import Tensor, from_bytes, from_json, to_bytes, to_json
from api.problems import Problem
from api.schemas.inference_protocol import InferBody
from ode_core.specs import SolverSpec
from tests.api.conftest import SPHERES_JOB, Served, train

NUMERIC = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@given(data=st.data(), datatype=st.sampled_from(sorted(NUMERIC)), binary=st.booleans())
def test_numbers_survive_the_way_there_and_back(data: st.DataObject, datatype: str, binary: bool) -> None:
    kind = np.dtype(NUMERIC[datatype])
    elements = {"allow_nan": False, "allow_infinity": False} if kind.kind == "f" else {}
    array = data.draw(arrays.arrays(kind, SHAPES, elements=elements))
    tensor = Tensor("x", datatype, array)
    if binary:
        read = from_bytes("x", datatype, array.shape, memoryview(to_bytes(tensor)), "x")
    else:
        # FP16 is no type of orjson's numpy: lists, as clients send them, stand for it.
        values = to_json(tensor).tolist()
        read = from_json("x", datatype, array.shape, orjson.loads(orjson.dumps(values)), "x")
    assert read.array.dtype == kind
    np.testing.assert_array_equal(read.array, array)


@given(values=st.lists(st.binary(max_size=20), max_size=5))
def test_texts_survive_as_bytes(values: list[bytes]) -> None:
    array = np.empty(len(values), object)
    array[:] = values
    content = to_bytes(Tensor("x", "BYTES", array))
    assert content == b"".join(struct.pack("<I", len(value)) + value for value in values)
    assert from_bytes("x", "BYTES", (len(values),), memoryview(content), "x").array.tolist() == values


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    content = b"".join(struct.pack("<f", value)[2:] for value in (1.0, -2.5, 0.0))
    assert from_bytes("x", "BF16", (3,), memoryview(content), "x").array.tolist() == [1.0, -2.5, 0.0]


def one(**changes: Any) -> dict[str, Any]:
    return {"name": "inputs", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]} | changes


def parse(document: Any, tail: bytes | None = None) -> Any:
    content = orjson.dumps(document)
    return parse_infer_request(content + (tail or b""), None if tail is None else str(len(content)))


def binary(size: int, **changes: Any) -> dict[str, Any]:
    described = one(parameters={"binary_data_size": size}, **changes)
    del described["data"]
    return {"inputs": [described]}


def test_a_nested_list_is_read_as_a_flat_one() -> None:
    nested = parse({"inputs": [one(shape=[2, 1, 2], data=[[[1, 2]], [[3, 4]]])]})
    flat = parse({"inputs": [one(shape=[2, 1, 2], data=[1, 2, 3, 4])]})
    np.testing.assert_array_equal(nested.inputs["inputs"].array, flat.inputs["inputs"].array)


@pytest.mark.parametrize(
    ("document", "tail", "status", "says"),
    [
        (binary(8), b"1234567", 400, "cut off"),
        (binary(8), b"123456789", 400, "1 bytes follow"),
        (binary(7), b"1234567", 400, "takes 8"),
        (binary(8), None, 400, "Inference-Header-Content-Length"),
        (binary(3, datatype="BYTES", shape=[1]), b"abc", 400, "end before element"),
        (binary(5, datatype="BYTES", shape=[1]), struct.pack("<I", 9) + b"a", 400, "longer"),
        (binary(2, datatype="BOOL"), b"\x00\x02", 422, "0 or 1"),
        ({"inputs": [one(), one()]}, None, 422, "two inputs"),
        ({"inputs": []}, None, 422, "at least one"),
        ({"inputs": [one(datatype="FP8")]}, None, 422, "datatype"),
        ({"inputs": [one(shape=[1, -2])]}, None, 422, "shape"),
        ({"inputs": [one(shape=[1, True])]}, None, 422, "shape"),
        ({"inputs": [one(shape=[1, 3])]}, None, 422, "takes 3"),
        ({"inputs": [one(data=[1.0, "2"])]}, None, 422, "inputs.0.data.1: must be numbers"),
        ({"inputs": [one(data=[1.0, True])]}, None, 422, "must be numbers"),
        ({"inputs": [one(data=[1.0, None])]}, None, 422, "must be numbers"),
        ({"inputs": [one(datatype="INT8", data=[1, 300])]}, None, 422, "does not fit"),
        ({"inputs": [one(data=[[1.0], [2.0]])]}, None, 422, "needs 1 lists"),
        ({"inputs": [one(parameters={"shared_memory_region": "a"})]}, None, 422, "not supported"),
        ({"inputs": [one()], "outputs": [{"name": "label"}, {"name": "label"}]}, None, 422, "twice"),
        ({"inputs": [one()], "input": []}, None, 422, "no such field"),
        ([], None, 422, "object"),
    ],
)
def test_what_does_not_add_up_is_refused(document: Any, tail: bytes | None, status: int, says: str) -> None:
    with pytest.raises(Problem) as refused:
        parse(document, tail)
    assert refused.value.status_code == status
    assert says in refused.value.detail


@pytest.mark.parametrize(
    ("sent", "header_length", "says"),
    [
        (b"", None, "the body is empty"),
        (
            b'{"inputs": [{"name": "in',
            None,
            "ends early, after 24 bytes: is it cut off, or is the header Content-Length",
        ),
        (
            b'{"inputs": [{"name": "in',
            "20",
            "after 20 bytes: is it cut off, or is the header Inference-Header-Content-",
        ),
        (b'{"inputs": nothing}', None, "is not JSON"),
        (b'{"inputs": [1e400]}', None, "a number in the body is beyond 1.8e308"),
        (b'{"inputs": []}\xff\x80\x3f', "15", "is the header Inference-Header-Content-Length the number of bytes"),
    ],
)
def test_a_body_that_is_no_json_is_refused_with_where_to_look(
    sent: bytes, header_length: str | None, says: str
) -> None:
    with pytest.raises(Problem) as refused:
        parse_infer_request(sent, header_length)
    assert (refused.value.status_code, refused.value.code) == (400, "invalid_json")
    assert says in refused.value.detail


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "9" * 30, "999"])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    with pytest.raises(Problem) as refused:
        parse_infer_request(b'{"inputs": []}', length)
    assert refused.value.status_code == 400


PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress}


@given(content=st.binary(max_size=2000), coding=st.sampled_from(sorted(PACKERS)))
def test_what_is_packed_unpacks(content: bytes, coding: str) -> None:
    assert unpacked(PACKERS[coding](content), coding, 2000) == content
    answer, headers = packed(content * 2, coding)
    assert unpacked(answer, headers.get("Content-Encoding"), 4000) == content * 2


@pytest.mark.parametrize("coding", sorted(PACKERS))
def test_a_bomb_is_refused_without_unpacking_it(coding: str) -> None:
    with pytest.raises(Problem) as refused:
        unpacked(PACKERS[coding](bytes(50_000_000)), coding, 1000)
    assert refused.value.status_code == 413


@pytest.mark.parametrize("coding", sorted(PACKERS))
def test_a_broken_body_is_refused(coding: str) -> None:
    whole = PACKERS[coding](b"a body")
    for broken in (whole[:-3], b"a body", whole + b"more", b""):
        with pytest.raises(Problem) as refused:
            unpacked(broken, coding, 1000)
        assert refused.value.status_code == 400


def test_an_unknown_coding_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Problem) as refused:
        unpacked(b"", "br", 1000)
    assert refused.value.status_code == 415
    assert refused.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"),
        ("*", "gzip"),
    ],
)
def test_the_preferred_coding(accepted: str | None, coding: str | None) -> None:
    assert preferred_coding(accepted) == coding


def test_a_solver_may_come_in_texts_and_numbers() -> None:
    expected = SolverSpec(method="dopri5", rtol=1e-5, atol=1e-6)
    assert asked_solver({"solver": "dopri5", "rtol": "1e-5", "atol": 1e-6}) == expected
    assert asked_solver({"solver": "rk4", "steps": "4"}) == SolverSpec(method="rk4", steps=4)
    assert asked_solver({"solver": "rk4", "steps": 4.0}) == SolverSpec(method="rk4", steps=4)
    assert asked_solver({"agreement": "0.99"}) == AutoSolver(0.99)
    assert asked_solver({"solver": "auto"}) == AutoSolver(0.999)
    assert asked_solver({}) is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"solver": "rk5", "steps": 4},
        {"solver": "rk4"},
        {"steps": 4},
        {"solver": "rk4", "steps": 1.5},
        {"solver": "rk4", "steps": True},
        {"solver": "rk4", "steps": "many"},
        {"solver": "rk4", "steps": "1_0"},
        {"agreement": "0.9_9"},
        {"solver": "dopri5", "rtol": "nan", "atol": 1e-5},
        {"solver": "auto", "steps": 4},
        {"agreement": 2},
        {"solver": "rk4", "steps": 4, "agreement": 0.9},
        {"solver": 4},
    ],
)
def test_a_wrong_solver_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(Problem) as refused:
        asked_solver(parameters)
    assert refused.value.status_code == 422


def test_the_description_names_every_parameter_of_a_solver() -> None:
    description = InferBody.model_fields["parameters"].description
    assert description is not None
    named = set(re.findall(r"`([a-z_]+)`", description))
    assert named >= {"solver", "steps", "step_size", "rtol", "atol", "max_steps", *AUTO_ALONE}


@pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**40, 2**40], [0, 2**31 - 1, 2]])
@pytest.mark.parametrize("form", [{"data": []}, {"parameters": {"binary_data_size": 0}}])
def test_a_shape_that_no_array_can_have_is_refused_even_where_it_has_no_elements(
    shape: list[int], form: dict[str, Any]
) -> None:
    body = orjson.dumps({"inputs": [{"name": "inputs", "datatype": "FP32", "shape": shape} | form]})
    with pytest.raises(Problem) as refused:
        parse_infer_request(body, str(len(body)))
    assert (refused.value.status_code, refused.value.errors[0]["path"]) == (422, "inputs.0.shape")


def test_a_request_counts_for_the_bytes_it_has_once_unpacked(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    train(served.store, SPHERES_JOB)
    sizes: list[int] = []
    predict = MicroBatcher.predict

    async def noting(self: MicroBatcher, call: Any, size: int, is_disconnected: Any) -> Any:
        sizes.append(size)
        return await predict(self, call, size, is_disconnected)

    monkeypatch.setattr(MicroBatcher, "predict", noting)
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [100, 1, 2], "data": [0] * 200}
    body = orjson.dumps({"inputs": [tensor]})
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    with served.client() as client:
        answer = client.post("/v2/models/spheres/infer", content=gzip.compress(body), headers=headers)
    assert answer.status_code == 200, answer.text
    assert sizes == [len(body)]
