"""When a step is compiled to one graph, and what happens where that cannot be done.

Compiling takes seconds, so by itself it happens only to a kind of step that has already taken as long eagerly as its
compilation will: at worst a solve then takes twice the time of the better choice.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any, Literal

import torch

log = logging.getLogger(__name__)

Compilation = Literal["auto", "always", "never"]
"""Whether steps may be compiled: ``auto`` when it has paid, at once, or not at all."""

# About what torch.compile takes for a step of a small field on one core, in seconds.
BREAK_EVEN = 10.0
_MOST_KINDS = 16

Step = Callable[..., Any]


class KindOfStep:
    """A step as a pure function of tensors, with the time it has taken so far and, in the end, its graph.

    Attributes:
        function: the step.
        seconds: what its eager runs have taken.
        failure: why it cannot be compiled, once that is known.
        graph: the compiled step, once there is one.
    """

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.seconds = 0.0
        self.failure: str | None = None
        self.graph: Step | None = None

    def is_due(self, mode: Compilation) -> bool:
        """Whether the next step is to be a compiled one."""
        if self.failure is not None or mode == "never":
            return False
        return mode == "always" or self.graph is not None or self.seconds >= BREAK_EVEN

    def eagerly(self, *arguments: Any) -> Any:
        """Run the step eagerly, and note the time it took."""
        start = time.perf_counter()
        result = self.function(*arguments)
        self.seconds += time.perf_counter() - start
        return result

    def compiled(self, *arguments: Any) -> Any:
        """Run the compiled step; where that fails the first time, run it eagerly from then on, and say why."""
        if self.graph is not None:
            return self.graph(*arguments)
        if self.failure is not None:
            return self.function(*arguments)
        try:
            graph = torch.compile(_with_own_code(self.function), fullgraph=True, dynamic=False)
            # Worker processes for a single graph would stay behind.
            with torch._inductor.config.patch(compile_threads=1):
                result = graph(*arguments)
        except Exception as error:  # whatever the compilers of this machine may raise
            self.failure = _first_line(error)
            log.warning("a solver step could not be compiled, it runs eagerly: %s", self.failure)
            return self.function(*arguments)
        self.graph = graph
        return result

    def reason(self, mode: Compilation) -> str:
        """Say in words why the steps ran as they did."""
        if self.failure is not None:
            return f"could not be compiled: {self.failure}"
        if self.graph is not None and mode != "never":
            return "asked for" if mode == "always" else f"eager steps had taken {BREAK_EVEN:g} s, as long as compiling"
        return "compilation is off" if mode == "never" else "too few steps so far to be worth compiling"


def _with_own_code(function: FunctionType) -> FunctionType:
    """Return a copy with a code object of its own: torch keeps the graphs, and bounds their number, by code object."""
    code = function.__code__.replace(co_name=function.__name__)
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _first_line(error: BaseException) -> str:
    # The compiler's own error is what a user can do something about, not torch's around it.
    while (inner := getattr(error, "inner_exception", error.__cause__)) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


_KINDS: OrderedDict[Hashable, KindOfStep] = OrderedDict()


def kind_of_step(key: Hashable, build: Callable[[], FunctionType]) -> KindOfStep:
    """Return the one kind of step for ``key`` of this process; ``build`` makes its function when it is new.

    The last few kinds are kept, with their graphs and the fields they were made for.
    """
    kind = _KINDS.get(key)
    if kind is None:
        kind = _KINDS[key] = KindOfStep(build())
        if len(_KINDS) > _MOST_KINDS:
            _KINDS.popitem(last=False)
    _KINDS.move_to_end(key)
    return kind
