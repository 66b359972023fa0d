"""Fields as functions of their tensors: what a compiled step is made of, and serves for every set of weights."""

import inspect
import weakref
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
        owner: the object whose function it is, while it lives; None for a function that belongs to nobody.
        by_sample: whether a sample's result is known not to depend on the others, so that a batch may be padded.
    """

    function: Callable[[tuple[Tensor, ...], Tensor, Tensor], Tensor]
    tensors: tuple[Tensor, ...]
    key: Hashable
    before_evaluation: Callable[[], None] | None
    owner: "weakref.ref[object] | None" = None
    by_sample: bool = False


def as_functional(field: Field) -> FunctionalField | None:
    """Return a field as a function of its tensors, or None where that is not known to be exact.

    Fields may say themselves (``functional``). Of others only plain functions, and modules without hooks or chance,
    are taken as they are, and only while the caller keeps using the same object.
    """
    own = getattr(field, "functional", None)
    if own is not None:
        found: FunctionalField = own()
        return found
    owner = field.__self__ if inspect.ismethod(field) else field
    if isinstance(owner, nn.Module):
        if not _is_function(owner):
            return None
    elif not (inspect.isfunction(field) or inspect.ismethod(field)):
        return None
    try:
        reference = weakref.ref(owner)
    except TypeError:  # nobody could tell when it is gone
        return None
    name = getattr(field, "__name__", "")
    return FunctionalField(lambda tensors, t, z: field(t, z), (), (id(owner), name), None, reference)


def _is_function(module: nn.Module) -> bool:
    """Whether a module does nothing but compute: no hook is called, and nothing is drawn or updated."""
    if getattr(module, "before_evaluation", None) is not None:
        return False
    changing = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.modules.batchnorm._NormBase)
    return not any(
        part._forward_hooks or part._forward_pre_hooks or (part.training and isinstance(part, changing))
        for part in module.modules()
    )
