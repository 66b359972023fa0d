"""Predictions on one dedicated thread, those that can be computed together in one batch.

Several threads in torch at once fight over the interpreter and get slower with load; one does not. There is no window
in which a call waits for others: the thread takes what has arrived while it was busy. So a call that comes alone starts
at once, and the more come, the larger the batches.

What arrives within one turn of the event loop is handed over together, which wakes the thread once and not once a
call. Without torch, which enters with the first batch.
"""

import asyncio
import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect

from api.inference.prediction_call import Execution, Outcome, Prediction, PredictionCall
from api.inference.served_version import ServedVersion
from api.inference.waiting_calls import CheckedCall, IsDisconnected, Ticket, WaitingCalls
from api.problems import Problem
from api.request_metrics import RequestMetrics

log = logging.getLogger(__name__)

MAX_WAITING = 1024
MAX_WAITING_BYTES = 256 * 2**20
LOOK_SECONDS = 0.5  # between two looks whether callers are still there
GO_ON_SECONDS = 0.005  # between two looks whether anybody still wants the batch that is computed

Answered = tuple[Ticket, Prediction | BaseException]


class Computation(Protocol):
    """What the thread does its work with; made on it, with the first batch."""

    def rows_at_once(self, served: ServedVersion, times: int) -> int:
        """Return the most rows of one batch whose states are wanted at so many times, or at none."""
        ...

    def compute(self, batch: Sequence[CheckedCall], go_on: Callable[[], bool]) -> Outcome:
        """Return what the rows of a batch give, in their order."""
        ...

    def warm(self, served: ServedVersion) -> float:
        """Load a version and solve once; return the seconds that took."""
        ...

    def forget(self, version_id: str) -> bool:
        """Free a version's memory; return whether it was loaded."""
        ...


CheckCalls = Callable[[Sequence[Ticket]], list[CheckedCall | Exception]]
"""Finds versions and solvers and checks inputs; an exception stands in the place of a call that does not fit."""


class _Errand(Future[Any]):
    """Something else to do on the model thread."""

    def __init__(self, function: Callable[[Computation], Any]) -> None:
        super().__init__()
        self.function = function


class MicroBatcher:
    """Answers calls in batches.

    Args:
        check: run on the model thread for all calls that arrived together.
        make_computation: run on the model thread with the first batch.
        metrics: told about batches.
    """

    def __init__(
        self,
        check: CheckCalls,
        make_computation: Callable[[], Computation],
        metrics: RequestMetrics,
    ) -> None:
        self._check = check
        self._make_computation = make_computation
        self._metrics = metrics
        self._computation: Computation | None = None
        self._made_at = math.inf  # by the monotonic clock: whose time was up before has waited for it
        self._inbox: queue.SimpleQueue[list[Ticket] | _Errand | None] = queue.SimpleQueue()
        self._waiting = WaitingCalls()
        self._thread = threading.Thread(target=self._work, name="inference")
        # The following belong to the event loop.
        self._open: dict[Ticket, None] = {}
        self._open_bytes = 0
        self._arrived: list[Ticket] = []
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop: what waits is answered with 503, what runs is finished."""
        self._closed = True
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._refuse_left()

    async def predict(self, call: PredictionCall, size: int, is_disconnected: IsDisconnected | None) -> Prediction:
        """Return the answer to a call.

        Args:
            call: what is asked.
            size: bytes it takes, about.
            is_disconnected: whether its caller has left.

        Raises:
            Problem: it does not fit its model, too much waits already, or it takes too long.
        """
        self._refuse_when_full(size)
        loop = asyncio.get_running_loop()
        ticket = Ticket(call, size, loop.create_future(), is_disconnected)
        self._open[ticket] = None
        self._open_bytes += size
        if not self._arrived:
            loop.call_soon(self._hand_over)
        self._arrived.append(ticket)
        if self._watch is None:
            self._watch = loop.create_task(self._look_after_callers())
        try:
            return await ticket.answer
        except TooLate:
            self._metrics.observe_refusal("too_late")
            raise
        finally:
            ticket.abandoned = True
            del self._open[ticket]
            self._open_bytes -= size

    async def run_errand(self, function: Callable[[Computation], Any]) -> Any:
        """Run a function of the computation on the model thread, after what has been handed over."""
        if self._closed:
            raise stopping()
        errand = _Errand(function)
        self._hand(errand)
        return await asyncio.wrap_future(errand)

    # On the event loop.

    def _refuse_when_full(self, size: int) -> None:
        if self._closed:
            raise stopping()
        if len(self._open) >= MAX_WAITING or (self._open and self._open_bytes + size > MAX_WAITING_BYTES):
            self._metrics.observe_refusal("busy")
            raise Problem(
                503,
                "busy",
                f"{len(self._open)} predictions already wait: try again in a moment",
                headers={"Retry-After": "1"},
            )

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        self._hand(arrived)

    def _hand(self, item: list[Ticket] | _Errand) -> None:
        self._inbox.put(item)
        if self._closed and not self._thread.is_alive():
            self._refuse_left()

    def _refuse_left(self) -> None:
        """Answer what has come too late for the thread, which has ended."""
        with suppress(queue.Empty):
            while True:
                item = self._inbox.get_nowait()
                if isinstance(item, _Errand):
                    if item.set_running_or_notify_cancel():
                        item.set_exception(stopping())
                elif item:
                    _deliver([(ticket, stopping()) for ticket in item])

    async def _look_after_callers(self) -> None:
        """Answer those whose time is up, and let go those who have left."""
        try:
            while self._open:
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                for ticket in list(self._open):
                    if not ticket.answer.done() and now - ticket.arrived >= LOOK_SECONDS:
                        await self._look_after(ticket, now)
        finally:
            self._watch = None

    async def _look_after(self, ticket: Ticket, now: float) -> None:
        if now > ticket.expires:
            ticket.answer.set_exception(self._not_in_time(ticket))
            return
        try:
            left = ticket.is_disconnected is not None and await ticket.is_disconnected()
        except Exception as error:  # of one connection, and no reason to look after nobody any more
            log.warning("whether a client has left cannot be told: %r", error)
            return
        if left and not ticket.answer.done():
            self._metrics.observe_refusal("abandoned")
            ticket.answer.set_exception(ClientDisconnect())

    # On the model thread.

    def _work(self) -> None:
        while self._take_in():
            if self._waiting:
                self._answer_next_batch()
        for call in self._waiting.drain():
            _deliver([(call.ticket, stopping())])

    def _take_in(self) -> bool:
        """Take what has arrived, and wait for it if there is nothing to do; return whether to go on."""
        arrived: list[Ticket] = []
        going_on = True
        try:
            item = self._inbox.get(block=not self._waiting)
            while True:
                if item is None:
                    going_on = False
                elif isinstance(item, _Errand):
                    self._run_errand(item)
                else:
                    arrived += item
                item = self._inbox.get_nowait()
        except queue.Empty:
            pass
        if not going_on:
            _deliver([(ticket, stopping()) for ticket in arrived])
        elif arrived:
            self._sort_in([ticket for ticket in arrived if not ticket.abandoned])
        return going_on

    def _run_errand(self, errand: _Errand) -> None:
        if not errand.set_running_or_notify_cancel():
            return  # nobody waits for it any more, and it takes no result
        try:
            errand.set_result(errand.function(self._made_computation()))
        except BaseException as error:
            errand.set_exception(error)

    def _sort_in(self, tickets: list[Ticket]) -> None:
        try:
            checked = self._check(tickets)
        except Exception as error:  # the database, mostly
            _deliver([(ticket, error) for ticket in tickets])
            return
        refused: list[Answered] = []
        for ticket, call in zip(tickets, checked, strict=True):
            if isinstance(call, Exception):
                refused.append((ticket, call))
            else:
                self._waiting.add(call)
        _deliver(refused)

    def _answer_next_batch(self) -> None:
        batch: list[CheckedCall] = []
        try:
            computation = self._made_computation()
            batch = self._waiting.next_batch(computation.rows_at_once)
            if wanted := [call for call in batch if self._wanted(call)]:
                self._answer(computation, wanted)
        except Exception as error:  # torch that cannot be loaded, for one; the thread must not end of it
            log.exception("a batch of predictions failed")
            _deliver([(call.ticket, error) for call in batch or self._waiting.drain()])

    def _answer(self, computation: Computation, batch: list[CheckedCall]) -> None:
        started = time.monotonic()
        deadline = max(call.ticket.expires for call in batch)
        for call in batch:
            call.ticket.begun = True

        look_again = started

        def go_on() -> bool:
            nonlocal look_again
            now = time.monotonic()
            if now < look_again:
                return True  # asked before each evaluation, of which some take microseconds
            look_again = now + GO_ON_SECONDS
            return now <= deadline and not all(call.ticket.abandoned for call in batch)

        try:
            outcome = computation.compute(batch, go_on)
        except Exception as error:
            # A database that is away fails each of them, and each would wait for it again.
            if len(batch) > 1 and go_on() and not isinstance(error, SQLAlchemyError):
                # Whoever made it fail is to have the error alone.
                for call in batch:
                    if self._wanted(call):
                        self._answer(computation, [call])
                return
            _deliver([(call.ticket, error) for call in batch])
            return
        seconds = time.monotonic() - started
        self._metrics.observe_batch(
            batch[0].solver.method,
            Counter(status.text for status in outcome.statuses),
            int(outcome.evaluations.sum()),
            len(outcome),
            seconds,
        )
        self._metrics.observe_waits(started - call.ticket.arrived for call in batch)
        answers: list[Answered] = []
        execution = Execution(len(outcome), seconds)
        first = 0
        for call in batch:
            part = outcome if len(batch) == 1 else outcome.rows(first, first + len(call))
            first += len(call)
            waited = started - call.ticket.arrived
            answers.append((call.ticket, Prediction(call.served, call.solver, call.choice, part, execution, waited)))
        _deliver(answers)

    def _made_computation(self) -> Computation:
        if self._computation is None:
            self._computation = self._make_computation()
            self._made_at = time.monotonic()
        return self._computation

    def _wanted(self, call: CheckedCall) -> bool:
        """Return whether a call is still worth computing; whoever waits for one that is not is told."""
        if call.ticket.wanted:
            return True
        if not call.ticket.abandoned:
            _deliver([(call.ticket, self._not_in_time(call.ticket))])
        return False

    def _not_in_time(self, ticket: Ticket) -> Problem:
        """Return the problem of a prediction that is not there in time; on either thread."""
        if not ticket.begun and ticket.expires <= self._made_at:
            return _still_loading(ticket.call.seconds)
        return too_late(ticket)


def joined_inputs(batch: Sequence[CheckedCall]) -> NDArray[Any]:
    """Return the rows of a batch in one array."""
    return batch[0].inputs if len(batch) == 1 else np.concatenate([call.inputs for call in batch])


class TooLate(Problem):
    """A prediction was stopped because nobody would wait longer for it."""


def too_late(ticket: Ticket) -> Problem:
    """Return the problem of a prediction that is not there in time."""
    seconds = ticket.call.seconds
    if not ticket.begun:
        return TooLate(
            504,
            "deadline_exceeded",
            f"the server was busy: the prediction waited {seconds:g} s and was not begun: ask again, or allow more",
            headers={"Retry-After": "1"},
        )
    return stopped_after(seconds)


def stopped_after(seconds: float) -> Problem:
    """Return the problem of a computation that took longer than it may."""
    return TooLate(
        422,
        "budget_exceeded",
        f"the prediction was stopped after {seconds:g} s: send fewer inputs, or use fewer steps or looser tolerances",
    )


def _still_loading(seconds: float) -> Problem:
    return TooLate(
        504,
        "deadline_exceeded",
        f"the server was still loading what computes predictions, which takes seconds, once: the prediction waited "
        f"{seconds:g} s and was not begun. Ask again, or allow more; a server with ODENESS_WARM_MODELS or "
        f"ODENESS_ROLE=inference is not ready before",
        headers={"Retry-After": "1"},
    )


def stopping() -> Problem:
    """Return the problem of a request that comes too late for a server."""
    return Problem(503, "stopping", "the server is stopping: ask again in a moment", headers={"Retry-After": "2"})


def _deliver(answers: list[Answered]) -> None:
    """Wake those who wait, all in one turn of their event loop."""
    if not answers:
        return
    loop = answers[0][0].answer.get_loop()
    with suppress(RuntimeError):  # it is closed, and nobody waits any more
        loop.call_soon_threadsafe(_set_answers, answers)


def _set_answers(answers: list[Answered]) -> None:
    for ticket, answer in answers:
        if ticket.answer.done():
            continue
        if isinstance(answer, BaseException):
            ticket.answer.set_exception(answer)
        else:
            ticket.answer.set_result(answer)
