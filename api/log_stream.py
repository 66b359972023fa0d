"""The log's stream: what one turn of the event loop logs is written at once."""

import asyncio
import logging
import time
from contextlib import suppress


class LineFormatter(logging.Formatter):
    """Time, level, logger and message in a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._second, self._written = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record; with a traceback, lines."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # the base's
        """Return the time of a record, of which a second is written once."""
        second = int(record.created)
        if second != self._second:
            self._written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._written},{int(record.msecs):03d}"


class TurnHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error: each write costs a system call here, and whoever reads the log as much again.

    Warnings, and what is logged in a thread in which no event loop runs, are written at once, after what has been kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # that will write them

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or keep it until the turn of the loop is over; called by one thread at a time."""
        try:
            self._kept.append(self.format(record) + self.terminator)
        except Exception:
            self.handleError(record)
            return
        if record.levelno >= logging.WARNING:
            self.flush()
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._loop:  # another one may have ended before it wrote them
            self._loop = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is kept."""
        self.acquire()
        try:
            kept, self._kept, self._loop = self._kept, [], None
            with suppress(OSError, ValueError):  # it is closed, and there is nobody to tell
                if kept:
                    self._write("".join(kept))
                super().flush()
        finally:
            self.release()

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError as error:  # nothing of it is written
            self.stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
