"""Fields as functions of their tensors: what a compiled step is made of, and serves for every set of weights."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

from torch import Tensor, nn

from ode_core.solvers.solution import Field


class FunctionalField(NamedTuple):
    """A field ``f(tensors, t, z)`` without anything of its own that changes.

    Attributes:
        function: the field; nothing in it but its arguments depends on the weights.
        tensors: its weights.
        key: equal for fields that share the function.
        before_evaluation: what has to be called before every evaluation, or None.
    """

    function: Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]
    tensors: tuple[Tensor, ...]
    key: Hashable
    before_evaluation: Callable[[], None] | None


def as_functional(field: Field) -> FunctionalField | None:
    """Return a field as a function of its tensors, or None where that is not known to be exact.

    Fields may say themselves (``functional``). Of others only plain functions and modules without a hook are taken
    as they are, and only while the caller keeps using the same object.
    """
    own = getattr(field, "functional", None)
    if own is not None:
        found: FunctionalField = own()
        return found
    if isinstance(field, nn.Module):
        if getattr(field, "before_evaluation", None) is not None or (field.training and _is_random(field)):
            return None
    elif not hasattr(field, "__code__"):
        return None
    return FunctionalField(lambda tensors, t, z: field(t, z), (), field, None)


def _is_random(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Dropout | nn.modules.batchnorm._BatchNorm) for part in module.modules())
