"""UUIDv7 identifiers: 48 bits of milliseconds, then a counter, then chance (RFC 9562, 5.7).

Their text sorts by time of creation, so that one index serves as key, time order and cursor.
"""

import secrets
import threading
import time
from collections.abc import Callable
from uuid import UUID

_COUNTER_BITS = 42  # of the 74 bits that are not time, version and variant: room for 2^41 ids a millisecond
_RANDOM_BITS = 74 - _COUNTER_BITS


class IdGenerator:
    """Makes UUIDv7 texts that grow strictly within this generator, whatever the clock does."""

    def __init__(self, milliseconds: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._milliseconds = milliseconds
        self._lock = threading.Lock()
        self._time = -1
        self._counter = 0

    def __call__(self) -> str:
        """Return a new id, for example ``019309f2-5f2c-7a6e-8c1d-0f6c3f0a9b11``."""
        with self._lock:
            now = self._milliseconds()
            if now > self._time:
                self._time = now
                # Starts in the lower half, so that counting up has room (RFC 9562, 6.2, method 1).
                self._counter = secrets.randbits(_COUNTER_BITS - 1)
            else:  # the same millisecond, or a clock set back
                self._counter += 1
                if self._counter >= 1 << _COUNTER_BITS:
                    self._time += 1
                    self._counter = 0
            time_part, counter = self._time, self._counter
        tail = counter << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        high, low = tail >> 62, tail & (1 << 62) - 1
        return str(UUID(int=time_part << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


new_id = IdGenerator()


def is_id(text: str) -> bool:
    """Whether ``text`` is a UUID in the form the store writes."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
