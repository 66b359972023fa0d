"""Calls that wait for the model thread, by what can be computed together. Without torch."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from api.inference.prediction_call import Prediction, PredictionCall
from api.inference.served_version import ServedVersion
from ode_core.audit.solver_choice import ChosenSolver
from ode_core.specs import SolverSpec

IsDisconnected = Callable[[], Awaitable[bool]]


@dataclass(eq=False)
class Ticket:
    """A call that somebody waits for.

    Attributes:
        call: what is asked.
        size: bytes it takes, about.
        answer: what its caller waits for; belongs to the event loop.
        is_disconnected: whether its caller has left.
        arrived: when, by the monotonic clock.
        begun: set when its computation begins.
        abandoned: set when nobody waits for it any more.
    """

    call: PredictionCall
    size: int
    answer: "asyncio.Future[Prediction]"
    is_disconnected: IsDisconnected | None
    arrived: float = field(default_factory=time.monotonic)
    begun: bool = False
    abandoned: bool = False

    @property
    def expires(self) -> float:
        """When its caller wants no answer any more."""
        return self.arrived + self.call.seconds

    @property
    def wanted(self) -> bool:
        """Whether it is still worth computing."""
        return not self.abandoned and time.monotonic() <= self.expires


@dataclass(frozen=True)
class BatchKey:
    """What the calls of one batch have in common: everything but their inputs."""

    version_id: str
    solver: SolverSpec
    certify: bool
    times: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class CheckedCall:
    """A call that fits its model.

    Attributes:
        ticket: who waits.
        served: the version.
        solver: the one to use.
        choice: why that one, where it was to be chosen.
        inputs: ``(n, *input_shape)`` in the model's precision.
    """

    ticket: Ticket
    served: ServedVersion
    solver: SolverSpec
    choice: ChosenSolver | None
    inputs: NDArray[Any]

    @property
    def key(self) -> BatchKey:
        """With which calls it can be computed."""
        return BatchKey(self.served.version.id, self.solver, self.ticket.call.certify, self.ticket.call.times)

    def __len__(self) -> int:
        return len(self.inputs)


class WaitingCalls:
    """Checked calls in the order of their arrival, one queue for each key."""

    def __init__(self) -> None:
        # The key whose first call has waited longest comes first: a key is added when its queue begins, and goes to the
        # end when a batch has left others behind.
        self._queues: OrderedDict[BatchKey, deque[CheckedCall]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, call: CheckedCall) -> None:
        """Let a call wait."""
        self._queues.setdefault(call.key, deque()).append(call)

    def next_batch(self, rows_at_once: Callable[[ServedVersion, int], int]) -> list[CheckedCall]:
        """Take the calls to compute next, in order: at least one, and no more rows than at once unless that one has.

        Each key gets its turn, so that none waits for ever behind one that many ask for.
        """
        key, queue = next(iter(self._queues.items()))
        most = rows_at_once(queue[0].served, len(key.times))
        del self._queues[key]
        batch = [queue.popleft()]
        rows = len(batch[0])
        while queue and rows + len(queue[0]) <= most:
            batch.append(queue.popleft())
            rows += len(batch[-1])
        if queue:
            self._queues[key] = queue
        return batch

    def drain(self) -> list[CheckedCall]:
        """Take all."""
        calls = [call for queue in self._queues.values() for call in queue]
        self._queues.clear()
        return calls
