"""Weights that a function uses and does not own: they stay as they are when the rest of a model is copied."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn


def weights_of_function(function: Any) -> str | None:
    """Return the name and type of a module, or the name of a parameter, that a function uses; None: it uses none.

    Looked at are what it closes over, the globals that it names, the object of a bound method, and of a partial its
    function and arguments. Modules and other callable objects are no functions.
    """
    for name, value in _used_by(function, set()):
        if isinstance(value, nn.Module) and any(True for _ in value.parameters()):
            return f"{name} ({type(value).__name__})"
        if isinstance(value, nn.Parameter):
            return name
    return None


def _used_by(function: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        parts = [("an argument", value) for value in (*function.args, *function.keywords.values())]
        yield from parts
        for part in (function.func, *(value for _, value in parts)):
            yield from _used_by(part, seen)
    elif inspect.ismethod(function):
        yield "its object", function.__self__
        yield from _used_by(function.__func__, seen)
    elif inspect.isfunction(function):
        try:
            used = inspect.getclosurevars(function)
        except ValueError:  # a variable around it has no value yet
            return
        for name, value in {**used.globals, **used.nonlocals}.items():
            yield name, value
            yield from _used_by(value, seen)
