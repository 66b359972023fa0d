"""When a step is compiled to one graph, and what happens where that cannot be done.

Compiling takes seconds, so by itself it happens only to a kind of step that has already taken as long eagerly as its
compilation will: at worst a solve then takes twice the time of the better choice.
"""

import importlib
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any, Literal

import torch

from ode_core.solvers.columns import by_columns

log = logging.getLogger(__name__)

Compilation = Literal["auto", "always", "never"]
"""Whether steps may be compiled: ``auto`` when it has paid, at once, or not at all."""

# About what torch.compile takes for a step of a small field on one core, in seconds.
BREAK_EVEN = 10.0
_MOST_KINDS = 16
# A field that depends on something that changes is compiled again for every change: after that many it runs eagerly.
_MOST_GRAPHS = 2


class KindOfStep:
    """Steps that share a graph, with the time they have taken so far and, in the end, the graph.

    A step is a pure function of tensors. So one that fails in the middle can be made anew, eagerly.

    Attributes:
        seconds: what eager runs have taken.
        failure: why it cannot be compiled, once that is known.
        graph: the compiled step, once there is one.
        owner: whose function the step is; once it is gone, so is the kind.
    """

    def __init__(self, owner: "weakref.ref[object] | None" = None) -> None:
        self.seconds = 0.0
        self.failure: str | None = None
        self.graph: Callable[..., Any] | None = None
        self.owner = owner
        self._graphs = 0

    def is_due(self, mode: Compilation) -> bool:
        """Whether the next step is to be a compiled one."""
        if self.failure is not None or mode == "never":
            return False
        return mode == "always" or self.graph is not None or self.seconds >= BREAK_EVEN

    def compiled(self, build: Callable[[], FunctionType], *arguments: Any) -> Any:
        """Run the compiled step and return what it does, or None where it cannot be; ``failure`` then says why.

        ``build`` makes the step's function; it is called once.
        """
        if self.failure is not None:
            return None
        before = _graphs_made()
        try:
            if self.graph is None:
                self.graph = torch.compile(
                    _with_own_code(build()),
                    fullgraph=True,
                    dynamic=False,
                    # One loop, however long: what one loop leaves to the next goes through memory.
                    options={"post_grad_custom_pre_pass": by_columns(), "max_fusion_size": 1000},
                )
            # Worker processes for a single graph would stay behind.
            with _one_compiler_thread() if self._graphs == 0 else nullcontext():
                result = self.graph(*arguments)
        except Exception as error:  # whatever the compilers of this machine, or the field, may raise
            self._give_up(_cause(error))
            return None
        self._graphs += _graphs_made() - before
        if self._graphs > _MOST_GRAPHS:
            self._give_up("the field depends on something that changes: it would be compiled again and again")
        return result

    def reason(self, mode: Compilation) -> str:
        """Say in words why the steps ran as they did."""
        if self.failure is not None:
            return f"could not be compiled: {self.failure}"
        if self.graph is not None and mode != "never":
            return "asked for" if mode == "always" else f"eager steps had taken {BREAK_EVEN:g} s, as long as compiling"
        return "compilation is off" if mode == "never" else "too few steps so far to be worth compiling"

    def _give_up(self, failure: str) -> None:
        self.failure, self.graph = failure, None
        log.warning("a solver step could not be compiled, it runs eagerly: %s", failure)


def _graphs_made() -> int:
    # Loaded here: torch's compiler takes a second or two, and most processes compile nothing.
    counters = importlib.import_module("torch._dynamo.utils").counters
    return int(counters["stats"]["unique_graphs"])


def _one_compiler_thread() -> AbstractContextManager[None]:
    patch: AbstractContextManager[None] = importlib.import_module("torch._inductor.config").patch(compile_threads=1)
    return patch


def _with_own_code(function: FunctionType) -> FunctionType:
    """Return a copy with a code object of its own: torch keeps the graphs, and bounds their number, by code object."""
    code = function.__code__.replace(co_name=function.__name__)
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _cause(error: BaseException) -> str:
    # The compiler's own error is what a user can do something about, not torch's around it.
    while (inner := getattr(error, "inner_exception", error.__cause__)) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


_KINDS: OrderedDict[Hashable, KindOfStep] = OrderedDict()
_LOCK = threading.Lock()


def kind_of_step(key: Hashable, owner: "weakref.ref[object] | None" = None) -> KindOfStep:
    """Return the one kind of step of this process for ``key``, while ``owner`` lives.

    The last few kinds are kept. A kind holds on to its graph, and only with a graph to the field it was made for.
    Inference mode and the wish for gradients are part of every key, as torch makes graphs of their own for them.
    """
    key = (key, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    with _LOCK:
        kind = _KINDS.get(key)
        # The key of a function that is gone may be that of a new one.
        if kind is None or (kind.owner is not None and (owner is None or kind.owner() is not owner())):
            kind = _KINDS[key] = KindOfStep(owner)
            if len(_KINDS) > _MOST_KINDS:
                _KINDS.popitem(last=False)
        _KINDS.move_to_end(key)
        return kind
