"""Foreign modules and functions whose constants follow the type of what they are given.

``torch.ones(len(z), 1)`` is float32 whatever ``z`` is: between numbers in float64 it rounds a time, or fails.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_OF_SHAPES = frozenset((torch.empty, torch.eye, torch.linspace, torch.logspace, torch.ones, torch.zeros))
_OF_VALUES = frozenset((torch.arange, torch.full, torch.scalar_tensor, torch.tensor))


class Float64Constants(TorchFunctionMode):
    """Within it, in this thread, constants that are made without a type are float64 where they would be float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch's, with the type where it has to be given."""
        kwargs = kwargs or {}
        if kwargs.get("dtype") is None and torch.get_default_dtype() == torch.float32:
            values = (*args, *kwargs.values())
            if func in _OF_SHAPES or (func in _OF_VALUES and any(map(_has_a_float, values))):
                return func(*args, **{**kwargs, "dtype": torch.float64})
        return func(*args, **kwargs)


def _has_a_float(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, list | tuple) and any(map(_has_a_float, value)))


class ForeignPart(nn.Module):
    """A module or function of others; with ``typed_constants`` its constants are float64 where its arguments are.

    With ``own_arguments`` it is given copies: one that begins with ``nn.ReLU(inplace=True)`` would else change inputs
    and states that are needed again.
    """

    def __init__(self, function: Callable[..., Any], *, own_arguments: bool = False) -> None:
        super().__init__()
        self.function, self.typed_constants, self.own_arguments = function, False, own_arguments

    def forward(self, *arguments: Tensor) -> Any:
        """Return what the function returns."""
        if self.own_arguments:
            arguments = tuple(one.clone() for one in arguments)
        if self.typed_constants and any(one.dtype == torch.float64 for one in arguments):
            with Float64Constants():
                return self.function(*arguments)
        return self.function(*arguments)
