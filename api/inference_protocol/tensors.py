"""Tensors of the Open Inference Protocol: their datatypes, and their values as JSON or as bytes.

Bytes are little-endian and in row-major order; an element of ``BYTES`` is preceded by its length in four bytes.
"""

import itertools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.problems import Problem, invalid

MAX_RANK = 16
_LONGEST = 2**31 - 1
_LENGTH = struct.Struct("<I")

_NUMPY_TYPES = {
    "BOOL": "|b1",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
# numpy has no bfloat16: its values are held as float32, of which they are the upper half.
DATATYPES = (*_NUMPY_TYPES, "BF16", "BYTES")

_JSON_TYPES: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "i": ({int}, "integers"),
    "u": ({int}, "integers"),
    "f": ({int, float}, "numbers"),
}


@dataclass(frozen=True)
class Tensor:
    """A named tensor.

    Attributes:
        name: of an input or output.
        datatype: the protocol's name, one of ``DATATYPES``.
        array: its values in its shape; of ``BYTES`` an object array of ``bytes``, of ``BF16`` one of float32.
    """

    name: str
    datatype: str
    array: NDArray[Any]


def checked_shape(shape: Any, path: str) -> tuple[int, ...]:
    """Return a shape from JSON.

    Raises:
        Problem: it is no list of integers from 0.
    """
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= MAX_RANK
        or not all(type(size) is int and 0 <= size <= _LONGEST for size in shape)
    ):
        raise invalid(path, f"must be a list of 1 to {MAX_RANK} integers from 0 to {_LONGEST:,}, for example [1, 2]")
    if math.prod(size or 1 for size in shape) > _LONGEST:
        raise invalid(path, f"has more than {_LONGEST:,} elements")
    return tuple(shape)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any, path: str) -> Tensor:
    """Return the tensor of JSON values: a flat list in row-major order, or lists nested as the shape is.

    Raises:
        Problem: there are not as many values as the shape says, or they are of another kind.
    """
    values = _flattened(data, shape, path)
    if datatype == "BF16":
        raise invalid(path, "BF16 has no JSON form: send it as binary data, or as FP32")
    if datatype == "BYTES":
        _require_kind(values, {str}, "texts", path)
        return Tensor(name, datatype, _object_array([value.encode() for value in values], shape))
    kind = np.dtype(_NUMPY_TYPES[datatype])
    _require_kind(values, *_JSON_TYPES[kind.kind], path)
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which a model refuses
            array = np.array(values, dtype=kind)
    except OverflowError:
        raise invalid(path, f"a number does not fit into {datatype}") from None
    return Tensor(name, datatype, array.reshape(shape))


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], content: memoryview, path: str) -> Tensor:
    """Return the tensor of bytes.

    Raises:
        Problem: there are not as many bytes as shape and datatype say.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, _object_array(_split_bytes(content, count, path), shape))
    kind = np.dtype("<u2" if datatype == "BF16" else _NUMPY_TYPES[datatype])
    if count * kind.itemsize != len(content):
        raise _unreadable(
            f"{path}: {len(content):,} bytes, but the shape {list(shape)} of {datatype} takes "
            f"{count * kind.itemsize:,}: send row-major values without padding"
        )
    if datatype == "BOOL" and count and np.frombuffer(content, np.uint8).max() > 1:
        raise invalid(path, "a byte of BOOL must be 0 or 1")
    array = np.frombuffer(content, kind).reshape(shape)
    if datatype == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return Tensor(name, datatype, array)


def to_json(tensor: Tensor) -> Any:
    """Return the values as a flat list, or an array that orjson writes as one; NaN leaves as null."""
    if tensor.datatype == "BYTES":
        return [value.decode("utf-8", "replace") for value in tensor.array.ravel()]
    return np.ascontiguousarray(tensor.array).ravel()


def to_bytes(tensor: Tensor) -> bytes:
    """Return the values as bytes."""
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(value)) + value for value in tensor.array.ravel())
    if tensor.datatype == "BF16":
        return (tensor.array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return tensor.array.astype(_NUMPY_TYPES[tensor.datatype], copy=False).tobytes()


def texts(name: str, values: Sequence[str]) -> Tensor:
    """Return the ``BYTES`` tensor of texts, ``(n,)``."""
    return Tensor(name, "BYTES", _object_array([value.encode() for value in values], (len(values),)))


def _flattened(data: Any, shape: tuple[int, ...], path: str) -> list[Any]:
    count = math.prod(shape)
    if not isinstance(data, list):
        raise invalid(path, "must be a list of values")
    if list not in set(map(type, data)):
        if len(data) != count:
            raise invalid(path, f"has {len(data):,} values, but the shape {list(shape)} takes {count:,}")
        return data
    if len(data) != shape[0]:
        raise invalid(path, f"nested as the shape {list(shape)} it needs {shape[0]:,} lists, but has {len(data):,}")
    values = data
    for size in shape[1:]:
        if set(map(type, values)) != {list} or set(map(len, values)) != {size}:
            raise invalid(path, f"must be flat, or nested as its shape {list(shape)} is")
        values = list(itertools.chain.from_iterable(values))
    return values


def _require_kind(values: list[Any], kinds: set[type], words: str, path: str) -> None:
    if not set(map(type, values)) <= kinds:
        position = next(index for index, value in enumerate(values) if type(value) not in kinds)
        raise invalid(f"{path}.{position}", f"must be {words}; counted in row-major order from 0")


def _split_bytes(content: memoryview, count: int, path: str) -> list[bytes]:
    elements: list[bytes] = []
    start = 0
    while len(elements) < count:
        begin = start + _LENGTH.size
        if begin > len(content):
            raise _unreadable(f"{path}: the bytes end before element {len(elements):,} of {count:,}")
        stop = begin + _LENGTH.unpack_from(content, start)[0]
        if stop > len(content):
            raise _unreadable(f"{path}: element {len(elements):,} is longer than what is left of the bytes")
        elements.append(bytes(content[begin:stop]))
        start = stop
    if start != len(content):
        raise _unreadable(f"{path}: {len(content) - start:,} bytes follow the last of {count:,} elements")
    return elements


def _object_array(values: Sequence[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _unreadable(detail: str) -> Problem:
    return Problem(400, "unreadable_body", detail)
