"""Which weights an architecture has, by name and shape; and what a safetensors file says it holds.

A safetensors file is eight bytes with the length of a header, the header as JSON, and then the numbers. The header is
checked here without any library of tensors: nothing in it is believed before.
Source: the format's description, https://huggingface.co/docs/safetensors.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from ode_core.specs.model import ClassifierSpec, model_input_shape, model_state_shape
from ode_core.specs.solver import Precision

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 1 << 20
PRECISIONS: dict[str, Precision] = {"F32": "float32", "F64": "float64"}
_SHOWN = 8


class WeightsRefused(ValueError):
    """A file holds no weights of the declared architecture; the message says where it differs."""


@dataclass(frozen=True)
class WeightsHeader:
    """What a file of weights holds.

    Attributes:
        precision: of all numbers.
        begin: bytes before the first number.
        places: first and last byte of each tensor's numbers, from ``begin``, by name.
    """

    precision: Precision
    begin: int
    places: dict[str, tuple[int, int]]


def weight_shapes(model: ClassifierSpec, sample_shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a classifier's weights by name, without building it."""
    state = model_state_shape(model, sample_shape)
    return (
        _stem_shapes(model, model_input_shape(model, sample_shape))
        | _field_shapes(model, state)
        | {"head.1.weight": (classes, math.prod(state)), "head.1.bias": (classes,)}
    )


def _stem_shapes(model: ClassifierSpec, inputs: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    if model.stem is None:
        return {}
    if model.stem.kind == "linear":
        return _layer("stem", model.stem.features, inputs[0], ())
    return _layer("stem", model.stem.channels, inputs[0], tuple(3 for _ in inputs[1:]))


def _field_shapes(model: ClassifierSpec, state: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    field = model.field
    if field.kind == "growing_ellipses":
        return {}
    first = state[0] + int(field.time_dependent)
    if field.kind == "mlp":
        widths: list[int] = [first, *field.hidden, state[0]]
        kernels: list[tuple[int, ...]] = [()] * (len(widths) - 1)
    else:
        widths = [first, field.channels, field.channels, state[0]]
        dimensions = 1 if field.kind == "conv1d" else 2
        kernels = [(size,) * dimensions for size in (1, field.kernel, 1)]
    shapes: dict[str, tuple[int, ...]] = {}
    for number, ((n_in, n_out), kernel) in enumerate(zip(itertools.pairwise(widths), kernels, strict=True)):
        shapes |= _layer(f"field.network.{2 * number}", n_out, n_in, kernel)
    return shapes


def _layer(name: str, n_out: int, n_in: int, kernel: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n_out, n_in, *kernel), f"{name}.bias": (n_out,)}


def read_header(start: bytes, size: int, expected: Mapping[str, tuple[int, ...]]) -> WeightsHeader:
    """Check the header of a safetensors file against the weights an architecture has.

    Args:
        start: the file's first ``LENGTH_BYTES + MOST_HEADER_BYTES`` bytes, or all of it.
        size: of the file in bytes.
        expected: shapes by name.

    Raises:
        WeightsRefused: it is no such file, or of other weights; all that differ are listed.
    """
    if len(start) < LENGTH_BYTES:
        raise WeightsRefused("the file is no safetensors file: it is empty or cut short")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MOST_HEADER_BYTES or LENGTH_BYTES + length > size:
        raise WeightsRefused("the file is no safetensors file: write it with safetensors.torch.save_file")
    try:
        header = json.loads(start[LENGTH_BYTES : LENGTH_BYTES + length])
    except (ValueError, RecursionError):
        raise WeightsRefused("the file is no safetensors file: its header is not JSON") from None
    if not isinstance(header, dict):
        raise WeightsRefused("the file is no safetensors file: its header is no object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(name, facts) for name, facts in header.items()}
    _compare({name: shape for name, (_, shape, _) in tensors.items()}, expected)
    types = {kind for kind, _, _ in tensors.values()}
    if len(types) != 1 or not types <= PRECISIONS.keys():
        raise WeightsRefused(
            f"the weights are {', '.join(sorted(types))}: all must be float32 (F32), or all float64 (F64)"
        )
    kind = types.pop()
    places = {name: place for name, (_, _, place) in tensors.items()}
    end = 0
    for name, (begin, stop) in sorted(places.items(), key=lambda item: item[1]):
        numbers = math.prod(expected[name])
        if begin != end or stop - begin != numbers * (4 if kind == "F32" else 8):
            raise WeightsRefused(f"the file is damaged: the bytes of {name} are not where its shape puts them")
        end = stop
    if LENGTH_BYTES + length + end != size:
        raise WeightsRefused("the file is damaged: it is longer or shorter than its header says")
    return WeightsHeader(PRECISIONS[kind], LENGTH_BYTES + length, places)


def _tensor(name: str, facts: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    if isinstance(facts, dict):
        kind, shape, place = (facts.get(key) for key in ("dtype", "shape", "data_offsets"))
        if isinstance(kind, str) and _are_counts(shape) and _are_counts(place) and len(place) == 2:
            return kind[:20], tuple(shape), (place[0], place[1])
    raise WeightsRefused(f"the file is no safetensors file: its header says nothing usable of {name[:100]}")


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(one) is int and one >= 0 for one in values)


def _compare(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [
        f"{name} has shape {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    parts = [
        _listed("missing", [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]),
        _listed("not of this architecture", [name[:100] for name in found if name not in expected]),
        _listed("of another shape", wrong),
    ]
    if any(parts):
        raise WeightsRefused(f"the weights are not those of the declared architecture. {' '.join(filter(None, parts))}")


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more"
    return f"{what[0].upper()}{what[1:]}: {', '.join(names[:_SHOWN])}{more}."
