"""How far an audit is: numbered parts, and reports within them."""

import time
from collections.abc import Callable

OnProgress = Callable[[int, int, str], None]
"""Called before each part, and again and again within it, with the part's number (from 1), the number of parts and a
message. An exception it raises ends the audit."""

# A message that stands for longer says for how many seconds, in steps of so many.
STANDING_SECONDS = 10


def changes_only(on_progress: OnProgress) -> OnProgress:
    """Return a receiver that passes on only what differs from the report before, for those that a person reads."""
    last: tuple[int, int, str] | None = None

    def receive(part: int, parts: int, message: str) -> None:
        nonlocal last
        if (part, parts, message) != last:
            last = (part, parts, message)
            on_progress(part, parts, message)

    return receive


class Progress:
    """Numbers the parts and reports them."""

    def __init__(
        self,
        parts: int,
        on_progress: OnProgress | None,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts, self._on_progress = parts, on_progress
        self._part, self._message = done, ""
        self._clock, self._since = clock, clock()

    def next_part(self, message: str) -> None:
        """Report that the next part begins."""
        self._part += 1
        self.within(message)

    def within(self, message: str) -> None:
        """Report how far the present part is."""
        self._message, self._since = message, self._clock()
        self.again()

    def again(self) -> None:
        """Repeat the last report, from within a long computation, with the time that it has taken so far."""
        if self._on_progress is None:
            return
        standing = int((self._clock() - self._since) // STANDING_SECONDS) * STANDING_SECONDS
        message = f"{self._message}, for {standing:,} s" if standing else self._message
        self._on_progress(self._part, self._parts, message)
