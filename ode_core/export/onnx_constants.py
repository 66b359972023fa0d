"""Numbers of a program as ONNX constants of the type they are used in.

torch's own translation writes every number as float32 and casts it to the type that is asked for, so that a float64
model would get its step, the weights of its method and its input scale with eight digits.
"""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import opset20 as op

_NO_TYPE = -1


def _constant(value: Any, dtype: int) -> Any:
    """Return ``value`` as a number of the ONNX type ``dtype``; a value that the graph computes is cast."""
    if isinstance(value, int | float):
        return op.Constant(value=onnx.helper.make_tensor("value", dtype, [], [value]))
    return op.Cast(value, to=dtype)


def _scalar_tensor(s: Any, dtype: int = _NO_TYPE, layout: str = "", device: str = "", pin_memory: bool = False) -> Any:
    return _constant(s, onnx.TensorProto.FLOAT if dtype == _NO_TYPE else dtype)


def _full_like(
    self: Any,
    fill_value: Any,
    dtype: int = _NO_TYPE,
    layout: str = "",
    device: str = "",
    pin_memory: bool = False,
    memory_format: str = "",
) -> Any:
    return op.Expand(_constant(fill_value, int(self.dtype) if dtype == _NO_TYPE else dtype), op.Shape(self))


CONSTANTS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scalar_tensor.default: _scalar_tensor,
    torch.ops.aten.full_like.default: _full_like,
}
"""How a program's own numbers are translated, by torch's operators."""
